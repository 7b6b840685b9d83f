#!/usr/bin/env node
/**
 * The executable. It is the one file that an older Node must still be able to read: it looks at the
 * version first, and hands over to the Node that came with the package when the one at hand is too old.
 */

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";

/** As package.json's `engines`: the first line with all that the sources use, type stripping included. */
const NODE_MAJOR_MIN = 24;

if (Number.parseInt(process.versions.node, 10) >= NODE_MAJOR_MIN) {
  // The daemon's control process. It makes garbage of the short-lived kind only, and little of it: a young generation
  // that grows costs 15 MiB and saves no time. What is loaded makes it grow, so this is said before.
  // The old generation grows by little at a time for 3 MiB more.
  if (process.argv[2] === "up") {
    setFlagsFromString("--semi-space-growth-factor=1");
    setFlagsFromString("--optimize-for-size");
  }
  const { runCli } = await import("./cli/main.ts");
  await runCli(process.argv.slice(2));
} else {
  const executable = packagedNode();
  if (executable === undefined) {
    console.error(
      `sojourn: this is Node ${process.versions.node}, and Sojourn needs ${NODE_MAJOR_MIN} or later (CLI_OLD_NODE)\n` +
        "  remedy: install a newer Node, or `npm install` in Sojourn's folder, which brings one",
    );
    process.exitCode = 1;
  } else {
    runAgain(executable);
  }
}

/** The binary of the npm package `node`, which is one of our dependencies. */
function packagedNode(): string | undefined {
  try {
    const folder = dirname(createRequire(import.meta.url).resolve("node/package.json"));
    const executable = join(folder, "bin", "node");
    return existsSync(executable) ? executable : undefined;
  } catch {
    return undefined;
  }
}

/** Becomes a thin parent: signals go down, the exit status comes up. */
function runAgain(executable: string): void {
  const child = spawn(executable, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
    stdio: "inherit",
  });
  for (const signal of ["SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => child.kill(signal));
  }
  // A terminal's Ctrl-C reaches the child without us; passed on as well it would count twice.
  process.on("SIGINT", () => {
    if (!process.stdin.isTTY) child.kill("SIGINT");
  });
  child.once("error", (cause) => {
    console.error(`sojourn: ${executable} does not run: ${cause.message} (CLI_OLD_NODE)`);
    process.exitCode = 1;
  });
  child.once("exit", (code, signal) => {
    process.exitCode = signal === null ? (code ?? 1) : 128 + constants.signals[signal];
  });
}
