/**
 * `mutate.ts [--seeds N] [--only TEXT]`: breaks one line at a time in a copy of the code and runs the simulation
 * on it until a seed fails. A mutant that survives must say why it may. Exit code 1 when one survives without a
 * reason, or when its line is not there any more.
 */
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { MUTANTS, type Mutant } from "./mutants.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const COPIED = ["protocol", "storage", "test/simulation", "package.json"];
const WORKERS = 2;
/** A mutant may never come to an end: that is a way to die, too. Longer than all its seeds take on a busy machine. */
const HANG_MS = 1_800_000;

/** A mutation that changes nothing: what fails then is not the mutant. */
const NOTHING: Mutant = {
  name: "nothing is broken",
  file: "protocol/source.ts",
  find: `export const initial`,
  replace: `export const initial`,
  survives: "it is not broken",
};

type Verdict = { mutant: Mutant; fate: string; isFine: boolean };

const { values } = parseArgs({
  options: { seeds: { type: "string", default: "2000" }, only: { type: "string", default: "" } },
});
const folder = mkdtempSync(join(tmpdir(), "sojourn-mutants-"));
try {
  const unbroken = await tryMutant(NOTHING, join(folder, "unbroken"));
  if (!unbroken.isFine) throw new Error(`the unbroken code fails: ${unbroken.fate}`);
  const wanted = MUTANTS.filter(({ name, file }) => `${file} ${name}`.includes(values.only));
  const queue = wanted.entries();
  const verdicts: Verdict[] = [];
  await Promise.all(
    Array.from({ length: WORKERS }, async () => {
      for (const [index, mutant] of queue) {
        const verdict = await tryMutant(mutant, join(folder, String(index)));
        console.log(rowOf(verdict));
        verdicts.push(verdict);
      }
    }),
  );
  const dead = verdicts.filter(({ fate }) => !fate.startsWith("SURVIVED")).length;
  console.log(`${wanted.length} mutants, ${dead} killed`);
  if (verdicts.some(({ isFine }) => !isFine)) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

async function tryMutant(mutant: Mutant, copy: string): Promise<Verdict> {
  for (const path of COPIED) cpSync(join(ROOT, path), join(copy, path), { recursive: true });
  const path = join(copy, mutant.file);
  const text = readFileSync(path, "utf8");
  if (text.split(mutant.find).length !== 2) {
    return { mutant, fate: "NOT FOUND exactly once", isFine: false };
  }
  writeFileSync(
    path,
    text.replace(mutant.find, () => mutant.replace),
  );
  const fate = await runUntilFailure(copy);
  rmSync(copy, { recursive: true, force: true });
  if (fate !== undefined) return { mutant, fate, isFine: mutant !== NOTHING };
  const { survives } = mutant;
  return { mutant, fate: `SURVIVED: ${survives ?? "nobody knows why"}`, isFine: survives !== undefined };
}

/** How the first failing seed failed; undefined when none did. */
function runUntilFailure(copy: string): Promise<string | undefined> {
  const arguments_ = ["test/simulation/run.ts", "--worker", "--until-failure", "--from", "1"];
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [...arguments_, "--seeds", values.seeds],
      { cwd: copy, timeout: HANG_MS, killSignal: "SIGKILL", maxBuffer: 64 << 20 },
      (error, stdout, stderr) => {
        const line = stdout.split("\n").find((text) => text.startsWith("{"));
        if (line === undefined) {
          resolve(error?.killed ? "hangs" : `crash: ${firstErrorLine(stderr)}`);
          return;
        }
        const [failure] = JSON.parse(line).failures as { seed: number; kind: string; summary: string }[];
        resolve(failure && `seed ${failure.seed}, ${failure.kind}: ${failure.summary}`);
      },
    );
  });
}

function firstErrorLine(stderr: string): string {
  return stderr.split("\n").find((line) => line.includes("Error")) ?? stderr.slice(0, 100);
}

function rowOf({ mutant, fate }: Verdict): string {
  return `${mutant.file.padEnd(36)} ${mutant.name.padEnd(76)} ${fate.slice(0, 140)}`;
}
