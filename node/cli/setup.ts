/**
 * `sojourn setup --xen`: what a Xen host needs besides a daemon's own folder, put where the system looks for it.
 * Shows what it will do, does it when it is told to, does nothing twice, and takes it back with `--undo`.
 */

import { execFile } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { resolve } from "node:path";
import { createInterface } from "node:readline/promises";
import { promisify } from "node:util";
import type { Command } from "commander";
import { defaultDataDir } from "../control/socket-path.ts";
import { NodeError } from "../errors.ts";
import type { Step } from "../setup/host-entries.ts";
import { addCommand } from "./command.ts";
import { printable, printJson, UsageError } from "./output.ts";

type SetupOptions = {
  xen?: boolean;
  undo?: boolean;
  yes?: boolean;
  root: string;
  dataDir: string;
  program?: string;
  json?: boolean;
};

const THIS_HOST = "/";

export function addSetup(program: Command): void {
  addCommand(program, "setup", {
    summary: "put the service, the block script and the folders of a Xen host in place, or take them away",
    example: "sojourn setup --xen --yes",
  })
    .option("--xen", "dom0 of a Xen host")
    .option("--undo", "remove what it wrote, and nothing else")
    .option("--yes", "do it; without it, it shows what it would do, and asks on a terminal")
    .option("--data-dir <folder>", "the host's data folder", defaultDataDir())
    .option("--root <folder>", "the host's files are below this folder, such as an image's", THIS_HOST)
    .option("--program <path>", "what the service runs (default: this program, where it is now)")
    .option("--json", "print JSON; asks nothing")
    .action(setup);
}

async function setup(options: SetupOptions): Promise<void> {
  if (!options.xen) throw new UsageError("say what this host is to be set up for: --xen");
  const { stepsToSetUp, stepsToUndo, takeSteps } = await import("../setup/host-entries.ts");
  const { attachedDomains, xenEntries } = await import("../setup/xen.ts");
  const root = resolve(options.root);
  const entries = xenEntries({ program: programOf(options), dataDir: resolve(options.dataDir) });
  const steps = options.undo ? stepsToUndo(entries, root) : stepsToSetUp(entries, root);
  const isNothing = steps.every(({ action }) => action === "leave");
  if (options.undo && attachedDomains(root).length > 0)
    throw new NodeError("SETUP_IN_USE", { domains: attachedDomains(root) });
  const commands = root === THIS_HOST && !isNothing ? commandsOf(options) : { before: [], after: [] };
  if (!options.json) process.stdout.write(formatSteps(steps, [...commands.before, ...commands.after]));
  const isDone = !isNothing && (options.yes === true || (await isConfirmed(options)));
  if (isDone) {
    for (const words of commands.before) await run(words);
    try {
      takeSteps(steps, root);
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      if (code !== "EACCES" && code !== "EPERM" && code !== "EROFS") throw cause;
      throw new UsageError(`the host's folders are root's to change: ${message}`, { cause });
    }
    for (const words of commands.after) await run(words);
  }
  if (options.json)
    printJson({ steps: steps.map(({ action, path, what }) => ({ action, path, what })), done: isDone });
  else process.stdout.write(`${isNothing ? nothingLeft(options) : whatNext(options, isDone)}\n`);
}

/** As the host will run us: with the Node that runs this, which is new enough. */
function programOf({ program, root }: SetupOptions): string[] {
  if (program !== undefined) return [program];
  if (resolve(root) !== THIS_HOST)
    throw new UsageError("--program says where this program is below --root, such as /usr/local/bin/sojourn");
  return [process.execPath, realpathSync(process.argv[1]!)];
}

/** systemd is told of its units only where it is the one that runs this host. */
function commandsOf({ undo }: SetupOptions): { before: string[][]; after: string[][] } {
  const hasSystemd = existsSync("/run/systemd/system");
  const reload = hasSystemd ? [["systemctl", "daemon-reload"]] : [];
  // The domains' unit would drain the host: there are none left here, see above.
  if (undo) {
    const stop = ["systemctl", "stop", "sojourn-domains.service", "sojourn.service"];
    return { before: hasSystemd ? [stop] : [], after: reload };
  }
  return { before: [], after: [...reload, ["modprobe", "nbd"]] };
}

async function isConfirmed({ json }: SetupOptions): Promise<boolean> {
  if (json || !process.stdin.isTTY || !process.stdout.isTTY) return false;
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  try {
    return /^y(?:es)?$/i.test((await terminal.question("Do this? [y/N] ")).trim());
  } finally {
    terminal.close();
  }
}

/** A command that fails is told of: the files are in place, and the remedy is the command itself. */
async function run([command = "", ...args]: readonly string[]): Promise<void> {
  try {
    await promisify(execFile)(command, args);
  } catch (error) {
    const { stderr = "", message } = error as { stderr?: string; message: string };
    process.stderr.write(
      `sojourn: \`${[command, ...args].join(" ")}\`: ${printable((stderr || message).trim())}\n`,
    );
    process.exitCode = 1;
  }
}

function formatSteps(steps: readonly Step[], commands: readonly string[][]): string {
  const width = Math.max(0, ...steps.map(({ path }) => path.length));
  return [
    ...steps.map(
      ({ action, path, what }) =>
        `  ${action.padEnd(7)}  ${path.padEnd(width)}  ${action === "leave" ? "not ours, or in use" : what}`,
    ),
    ...commands.map((words) => `  run      ${words.join(" ")}`),
  ]
    .map((line) => `${printable(line)}\n`)
    .join("");
}

function nothingLeft({ undo }: SetupOptions): string {
  return undo ? "Nothing to remove." : "Nothing to do: all of it is in place.";
}

function whatNext({ undo }: SetupOptions, isDone: boolean): string {
  if (!isDone) return "Nothing was done; --yes does it.";
  if (undo) return "Removed.";
  return "Done. Next: `sojourn init` or `sojourn join TOKEN`, then `systemctl start sojourn sojourn-domains`.";
}
