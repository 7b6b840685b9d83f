/** A mutant whose line was rewritten breaks nothing, and says so only in a run that takes hours. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { MUTANTS } from "./mutants.ts";

it.each(MUTANTS.map(({ name, ...mutant }) => [name, mutant] as const))(
  "breaks one place, and changes it: %s",
  (_name, { file, find, replace }) => {
    const text = readFileSync(fileURLToPath(new URL(`../../${file}`, import.meta.url)), "utf8");
    expect(text.split(find)).toHaveLength(2);
    expect(replace).not.toBe(find);
  },
);
