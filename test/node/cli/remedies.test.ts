/** Whatever a sentence of ours tells people to type can be typed: its command and its options exist. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { runSojourn } from "./run-sojourn.ts";

const ROOT = join(import.meta.dirname, "..", "..", "..");
/** In code spans, also those within a template's text; `sojourn --version` names no command. */
const TYPED = /\\?`sojourn ([a-z][a-z-]*)([^`\\\n]*)/g;

type Advice = { where: string; command: string; options: readonly string[] };

function adviceIn(where: string, text: string): Advice[] {
  return text
    .matchAll(TYPED)
    .map(([, command, rest]) => ({
      where,
      command: command!,
      options: rest!
        .matchAll(/--[a-z][a-z-]*/g)
        .map(([option]) => option)
        .toArray(),
    }))
    .toArray();
}

function textsOf(folder: string): [path: string, text: string][] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((path) => /\.(ts|md)$/.test(path))
    .map((path) => [join(folder, path), readFileSync(join(ROOT, folder, path), "utf8")]);
}

const texts = [
  ...["node", "storage", "protocol", "testnet"].flatMap(textsOf),
  ["README.md", readFileSync(join(ROOT, "README.md"), "utf8")] as const,
];
const advice = texts.flatMap(([path, text]) => adviceIn(path, text));

let commands: Set<string>;
beforeAll(async () => {
  const { stdout } = await runSojourn(["--help"]);
  commands = new Set([...stdout.matchAll(/^ {2}([a-z][a-z-]+)(?:\|| )/gm)].map((match) => match[1]!));
});

test("the scan finds a command that does not exist, and its options", () => {
  const [found] = adviceIn("here", "run \\`sojourn mend --all\\` first");
  expect(found).toEqual({ where: "here", command: "mend", options: ["--all"] });
});

test("every command that is named exists", () => {
  expect(advice.length).toBeGreaterThan(30);
  const wrong = advice.filter(({ command }) => !commands.has(command));
  expect(wrong.map(({ where, command }) => `${where}: sojourn ${command}`)).toEqual([]);
});

test("every option that is named with its command exists", async () => {
  const named = Map.groupBy(
    advice.filter(({ options }) => options.length > 0),
    ({ command }) => command,
  );
  expect(named.size).toBeGreaterThan(0);
  for (const [command, all] of named) {
    const { stdout } = await runSojourn([command, "--help"]);
    for (const { where, options } of all) {
      for (const option of options)
        expect(stdout, `${where}: sojourn ${command} ${option}`).toContain(option);
    }
  }
}, 60_000);
