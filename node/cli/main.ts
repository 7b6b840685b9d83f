/**
 * The command line: parses it, runs one command, and turns every failure into a sentence and an exit
 * code. A code answers the operator's question, where does my domain run:
 *
 *   0 done · 1 failed, safe at the source · 2 usage · 3 failed, safe at the destination · 4 undecided
 */

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Command, CommanderError, type Option } from "commander";
import type { ApiErrorBody } from "../control/api.ts";
import { addCreate } from "./create.ts";
import { addDoctor } from "./doctor.ts";
import { addDrain } from "./drain.ts";
import { addHistory } from "./history.ts";
import { addHosts } from "./hosts.ts";
import { addInit } from "./init.ts";
import { addInvite } from "./invite.ts";
import { addJoin } from "./join.ts";
import { addLeave } from "./leave.ts";
import { addLifecycle } from "./lifecycle.ts";
import { addList } from "./list.ts";
import { addMembers } from "./members.ts";
import { addMigrate } from "./migrate.ts";
import { addNbdServe } from "./nbd-serve.ts";
import { describeFailure, printFailure } from "./output.ts";
import { addPlan } from "./plan.ts";
import { addRecover } from "./recover.ts";
import { addRepair } from "./repair.ts";
import { addReplicas } from "./replicas.ts";
import { addRevoke } from "./revoke.ts";
import { addRotateSecret } from "./rotate-secret.ts";
import { addSetup } from "./setup.ts";
import { addShow } from "./show.ts";
import { addUp, loadConfigFlags } from "./up.ts";
import { addVerify } from "./verify.ts";
import { addWatch } from "./watch.ts";

/** `args` without the executable's own. Sets `process.exitCode`; never throws. */
export async function runCli(args: readonly string[]): Promise<void> {
  // `sojourn list | head` is no failure.
  process.stdout.on("error", (cause: NodeJS.ErrnoException) => {
    if (cause.code !== "EPIPE") throw cause;
  });
  // Wherever the word stands: `help up` shows the flags as well, and a domain of that name costs some time.
  const program = buildProgram(args.includes("up") ? await loadConfigFlags() : []);
  try {
    if (args.length === 0) program.outputHelp({ error: true });
    if (args.length === 0) process.exitCode = 2;
    else await program.parseAsync(args, { from: "user" });
  } catch (cause) {
    const failure = failureOf(cause, program);
    if (failure === undefined) return;
    printFailure(failure, { json: args.includes("--json") });
    process.exitCode = failure.exitCode;
  }
}

function buildProgram(configFlags: readonly Option[]): Command {
  const program = new Command("sojourn")
    .description(
      "Moves running domains, local disks and all, between hosts that share nothing but a network.",
    )
    .version(packageVersion(), "--version", "print the version")
    .helpCommand("help [command]", "show the help of a command")
    .exitOverride()
    // Complaints are printed once, in our form, by `runCli`.
    .configureOutput({ outputError: () => {} });
  addInit(program);
  addUp(program, configFlags);
  addInvite(program);
  addJoin(program);
  addRevoke(program);
  addRotateSecret(program);
  addCreate(program);
  addLifecycle(program);
  addList(program);
  addShow(program);
  addPlan(program);
  addMigrate(program);
  addRecover(program);
  addReplicas(program);
  addHistory(program);
  addVerify(program);
  addHosts(program);
  addMembers(program);
  addWatch(program);
  addLeave(program);
  addDoctor(program);
  addSetup(program);
  addDrain(program);
  addRepair(program);
  addNbdServe(program);
  return program;
}

/** Undefined when the "failure" was that help or the version was asked for. */
function failureOf(cause: unknown, program: Command): ApiErrorBody | undefined {
  const command = program.commands.find((each) => program.args.includes(each.name()));
  const hint = `see \`sojourn ${command === undefined ? "" : `${command.name()} `}--help\``;
  if (!(cause instanceof CommanderError)) return describeFailure(cause, hint);
  if (cause.exitCode === 0) return undefined;
  if (cause.code === "commander.help") {
    // `help` with a word that is no command; the program's help has been printed instead.
    return { code: "USAGE", message: "there is no such command", remedy: hint, exitCode: 2 };
  }
  const message = cause.message.replace(/^error: /, "").replace(/\n\((.*)\)$/, "; $1");
  return { code: "USAGE", message, remedy: hint, exitCode: 2 };
}

/** The package is found from the sources and from what was built of them, at different depths. */
function packageVersion(): string {
  for (let folder = import.meta.dirname; ; folder = dirname(folder)) {
    const file = join(folder, "package.json");
    if (existsSync(file)) return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
    if (folder === dirname(folder)) return "unknown";
  }
}
