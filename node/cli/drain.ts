/**
 * `sojourn drain` and `undrain`: what a host's shutdown and boot mean for its domains. `drain` ends all that run here in
 * order, or moves them away, and notes which it ended; `undrain` starts those again. A domain that is another host's
 * by then is left alone: the daemon refuses to start it.
 */

import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import type { Command } from "commander";
import type { DomainRow } from "../control/api.ts";
import { ControlClient } from "../control/client.ts";
import { findSocketPath } from "../control/socket-path.ts";
import { nodeErrorOf } from "../errors.ts";
import { duration } from "./arguments.ts";
import { type ApiOptions, addApiCommand, printResult, withClient } from "./command.ts";
import { printable } from "./output.ts";

type Outcome = { domain: string; name: string; outcome: "stopped" | "moved" | "started" | "left" | "failed" };
type Row = Outcome & { reason?: string };
/** In the data folder: domains that `drain` ended, and that nobody has started since. */
type Note = { domain: string; name: string };

const POLL_MS = 250;
const ELSEWHERE = new Set(["DOMAIN_ELSEWHERE", "DOMAIN_UNKNOWN", "NOT_OWNER"]);

export function addDrain(program: Command): void {
  addApiCommand(program, "drain", {
    summary: "end all domains of this host in order, or move them away; `undrain` starts what was ended",
    example: "sojourn drain --to beta",
  })
    .option("--to <host>", "move them there instead; one that cannot go is ended")
    .action((options: ApiOptions & { to?: string }) =>
      withClient(options, (client) => drain(client, options)),
    );
  addApiCommand(program, "undrain", {
    summary: "start the domains that `drain` ended, those that are still this host's",
    example: "sojourn undrain",
  })
    .option("--crashed", "and those that ended without a word, as by a power cut")
    .option("--wait <duration>", "for the daemon to come up", duration)
    .action(async (options: ApiOptions & { crashed?: boolean; wait?: number }) => {
      await untilUp(options);
      await withClient(options, (client) => undrain(client, options));
    });
}

async function drain(client: ControlClient, options: ApiOptions & { to?: string }): Promise<void> {
  const { own, notes } = await look(client);
  const rows: Row[] = [];
  for (const { id, name } of own.filter(({ state }) => state === "running" || state === "suspended")) {
    const domain = { domain: id, name };
    const refusal =
      options.to === undefined
        ? undefined
        : await attempt(() => client.call("migrate", { domain: id, to: options.to! }));
    if (options.to !== undefined && refusal === undefined) {
      rows.push({ ...domain, outcome: "moved" });
      continue;
    }
    // Before it ends: whoever is interrupted in between starts one that runs, which is nothing.
    await notes.add(domain);
    const failure = await attempt(() => client.call("stop", { domain: id }));
    const reason = [refusal, failure]
      .flatMap((each) => (each === undefined ? [] : [each.message]))
      .join("; ");
    rows.push({
      ...domain,
      outcome: failure === undefined ? "stopped" : "failed",
      ...(reason !== "" && { reason }),
    });
  }
  print(options, rows, "no domain runs here\n");
}

async function undrain(client: ControlClient, options: ApiOptions & { crashed?: boolean }): Promise<void> {
  const { own, notes } = await look(client);
  const crashed = own.filter(({ state }) => options.crashed === true && state === "crashed");
  const wanted = new Map(
    [...notes.all, ...crashed.map(({ id, name }) => ({ domain: id, name }))].map((each) => [
      each.domain,
      each,
    ]),
  );
  const rows: Row[] = [];
  for (const domain of wanted.values()) {
    const failure = await attempt(() => client.call("start", { domain: domain.domain }));
    const isElsewhere = failure !== undefined && ELSEWHERE.has(failure.code);
    if (failure === undefined || isElsewhere) await notes.remove(domain);
    rows.push({
      ...domain,
      outcome: failure === undefined ? "started" : isElsewhere ? "left" : "failed",
      ...(failure !== undefined && { reason: failure.message }),
    });
  }
  print(options, rows, "no domain is to be started\n");
}

async function look(client: ControlClient): Promise<{ own: DomainRow[]; notes: Notes }> {
  const { host, dataDir } = await client.call("info", {});
  const own = (await client.call("list", {})).filter((row) => row.host === host);
  return { own, notes: await Notes.read(join(dataDir, "drained.json")) };
}

/** Undefined when it was done. */
async function attempt(work: () => Promise<unknown>): Promise<{ code: string; message: string } | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    return nodeErrorOf(error);
  }
}

function print(options: ApiOptions, rows: readonly Row[], none: string): void {
  if (rows.some(({ outcome }) => outcome === "failed")) process.exitCode = 1;
  printResult(options, { domains: rows }, () => rows.map(lineOf).join("") || none);
}

function lineOf({ name, outcome, reason }: Row): string {
  return `${outcome.padEnd(8)}${printable(name)}${reason === undefined ? "" : `: ${printable(reason)}`}\n`;
}

async function untilUp(options: ApiOptions & { wait?: number }): Promise<void> {
  const deadline = performance.now() + (options.wait ?? 0);
  const socketPath = findSocketPath(options.address === undefined ? {} : { address: options.address });
  for (;;) {
    try {
      await (await ControlClient.connect({ socketPath })).close();
      return;
    } catch (error) {
      if ((error as { code?: string }).code !== "CONTROL_NO_DAEMON" || performance.now() > deadline)
        throw error;
      await pause(POLL_MS);
    }
  }
}

class Notes {
  readonly #path: string;
  #all: readonly Note[];

  private constructor(path: string, all: readonly Note[]) {
    this.#path = path;
    this.#all = all;
  }

  static async read(path: string): Promise<Notes> {
    const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return "[]";
      throw error;
    });
    return new Notes(path, JSON.parse(text) as Note[]);
  }

  get all(): readonly Note[] {
    return this.#all;
  }

  async add(note: Note): Promise<void> {
    await this.#write([...this.#all.filter(({ domain }) => domain !== note.domain), note]);
  }

  async remove({ domain }: Pick<Note, "domain">): Promise<void> {
    await this.#write(this.#all.filter((each) => each.domain !== domain));
  }

  async #write(all: readonly Note[]): Promise<void> {
    this.#all = all;
    await writeFile(`${this.#path}.new`, `${JSON.stringify(all)}\n`, { mode: 0o600, flush: true });
    await rename(`${this.#path}.new`, this.#path);
  }
}
