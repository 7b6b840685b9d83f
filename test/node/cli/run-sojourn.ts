/** The executable as a user runs it: a child process, its output, its exit code. */

import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";

export type Outcome = { code: number | null; stdout: string; stderr: string };

const EXECUTABLE = join(import.meta.dirname, "..", "..", "..", "node", "bin.ts");

export type RunOptions = { socketPath?: string; env?: Record<string, string>; cwd?: string };

export function spawnSojourn(
  args: readonly string[],
  { socketPath, env = {}, cwd }: RunOptions = {},
): ChildProcessByStdio<null, Readable, Readable> {
  return spawn(process.execPath, [EXECUTABLE, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      PATH: process.env.PATH,
      ...(socketPath === undefined ? {} : { SOJOURN_ADDR: socketPath }),
      ...env,
    },
    ...(cwd === undefined ? {} : { cwd }),
  });
}

export async function runSojourn(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const child = spawnSojourn(args, options);
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "close") as Promise<[number | null]>,
  ]);
  return { code, stdout, stderr };
}
