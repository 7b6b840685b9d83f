/** The `sojourn` executable, as a scenario runs it: the daemon, and the commands that form a cluster. */

import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { promisify } from "node:util";

const ROOT = join(import.meta.dirname, "..");
const NODE_MAJOR_MIN = 24;

/** `sources` are run as they are; `built` is what users install, and wants `npm run build` first. */
export type Build = "sources" | "built";

const EXECUTABLES: Record<Build, string> = {
  sources: join(ROOT, "node", "bin.ts"),
  built: join(ROOT, "dist", "node", "bin.js"),
};

/** The whole command line; `within` goes in front of it, to enter a network namespace for instance. */
export function commandLine(
  args: readonly string[],
  { build = "sources", within = [] }: { build?: Build; within?: readonly string[] } = {},
): readonly string[] {
  return [...within, nodeExecutable(), EXECUTABLES[build], ...args];
}

/** What the command prints as JSON. Rejects with what it complained about. */
export async function sojournJson(
  args: readonly string[],
  { folder, ...how }: { folder: string; build?: Build; within?: readonly string[] },
): Promise<Record<string, unknown>> {
  const [command = "", ...rest] = commandLine([...args, "--json"], how);
  const { stdout } = await promisify(execFile)(command, rest, { env: environmentOf(folder, how.build) });
  return JSON.parse(stdout) as Record<string, unknown>;
}

/**
 * Nothing of ours. Sources are compiled by every daemon, so those that run them share a cache, in the cluster's folder;
 * who installs us has none, and the cache is 15 MiB in each process.
 */
export function environmentOf(folder: string, build: Build = "sources"): Record<string, string> {
  const cache = build === "sources" ? { NODE_COMPILE_CACHE: join(folder, ".compile-cache") } : {};
  return { PATH: process.env.PATH ?? "", ...cache };
}

/** Builds what users install. */
export async function buildPackage(): Promise<void> {
  const rolldown = join(ROOT, "node_modules", ".bin", "rolldown");
  await promisify(execFile)(rolldown, ["-c"], {
    cwd: ROOT,
    env: { PATH: `${dirname(nodeExecutable())}:${process.env.PATH ?? ""}` },
  });
}

/** Ours where it is new enough, else the one that the package brings. */
function nodeExecutable(): string {
  if (Number.parseInt(process.versions.node, 10) >= NODE_MAJOR_MIN) return process.execPath;
  const require = createRequire(import.meta.url);
  return join(dirname(require.resolve("node/package.json")), "bin", "node");
}
