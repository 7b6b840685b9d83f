/**
 * A domain's folder: all that an adapter needs to find the domain again.
 *
 *   <runDir>/<domain id>/
 *     domain.json   what it is: its specification, and whether it was booted or received
 *     process.json  the guest process: its id, and the start time that tells it from a later one of that id
 *     exit.json     how it ended, where it had time to say so
 *     control       unix socket by which the process is told what to do: a language per adapter
 *     serial        `qemu`: unix socket of the guest's serial console, and console.log, what it printed
 *     guest.log     what the process printed
 */

import { readFileSync, writeFileSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { badSpec, HypervisorError } from "./errors.ts";
import type { DomainSpec } from "./hypervisor.ts";

/** The kernel's limit of a unix socket's path is 108 octets, 104 on some systems, one of them a zero. */
const SOCKET_PATH_BYTES_MAX = 103;

const DomainFile = z.object({
  mode: z.enum(["boot", "incoming"]),
  spec: z.object({
    id: z.string(),
    name: z.string(),
    memoryBytes: z.number(),
    config: z.string(),
    vbds: z.array(
      z.object({ name: z.string(), sizeBytes: z.number(), socketPath: z.string(), exportName: z.string() }),
    ),
  }),
});
export type DomainFile = { mode: "boot" | "incoming"; spec: DomainSpec };

const ProcessFile = z.object({ pid: z.int().positive(), startTime: z.string() });
export type ProcessFile = z.infer<typeof ProcessFile>;

const ExitFile = z.object({ state: z.enum(["shutoff", "crashed"]), detail: z.string().optional() });
export type ExitFile = z.infer<typeof ExitFile>;

export class DomainFolder {
  readonly path: string;

  constructor({ runDir, id }: { runDir: string; id: string }) {
    // The id becomes a path: nothing that could climb.
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(id)) {
      throw badSpec("id", "no name of a folder");
    }
    this.path = join(runDir, id);
    if (Buffer.byteLength(this.streamPath("00000000")) > SOCKET_PATH_BYTES_MAX) {
      const reason = `${this.path} is too long for a unix socket in it`;
      throw badSpec("runDir", reason);
    }
  }

  get controlPath(): string {
    return join(this.path, "control");
  }

  /** For people; `process.json` is what we go by. */
  get pidPath(): string {
    return join(this.path, "pid");
  }

  get serialPath(): string {
    return join(this.path, "serial");
  }

  /** What the guest wrote to its serial console, whether or not somebody listened. */
  get consoleLogPath(): string {
    return join(this.path, "console.log");
  }

  get logPath(): string {
    return join(this.path, "guest.log");
  }

  /** A memory stream's socket. Never the same name twice: an earlier peer must not find a later stream. */
  streamPath(name: string): string {
    return join(this.path, `m-${name}`);
  }

  /** Begins the folder anew. Two that try at once: one gets `HYPERVISOR_DOMAIN_EXISTS`. */
  async create(id: string, file: DomainFile): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
    await mkdir(join(this.path, ".."), { recursive: true });
    try {
      await mkdir(this.path);
    } catch (cause) {
      throw new HypervisorError({ code: "HYPERVISOR_DOMAIN_EXISTS", domain: id }, { cause });
    }
    const text = JSON.stringify(file, null, 2);
    await writeFile(join(this.path, "domain.json.new"), text);
    await rename(join(this.path, "domain.json.new"), join(this.path, "domain.json"));
  }

  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
  }

  async domain(): Promise<DomainFile | undefined> {
    return readJson(join(this.path, "domain.json"), DomainFile);
  }

  async process(): Promise<ProcessFile | undefined> {
    return readJson(join(this.path, "process.json"), ProcessFile);
  }

  async exit(): Promise<ExitFile | undefined> {
    return readJson(join(this.path, "exit.json"), ExitFile);
  }

  /** Written by the guest process about itself, or by whoever has just begun it. */
  writeProcess(pid = process.pid): void {
    const file: ProcessFile = { pid, startTime: startTimeOf(pid) ?? "" };
    writeFileSync(join(this.path, "process.json"), JSON.stringify(file));
  }

  /** Its last act; the folder may be gone already. */
  writeExit(exit: ExitFile): void {
    try {
      writeFileSync(join(this.path, "exit.json"), JSON.stringify(exit));
    } catch {
      // Destroyed meanwhile: nobody will ask.
    }
  }
}

/** A process's start in clock ticks since boot; undefined when there is none (or only its remains). */
export function startTimeOf(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The second field is the command in parentheses and may hold anything; the third is the state.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
}

export function isAlive(file: ProcessFile): boolean {
  return startTimeOf(file.pid) === file.startTime;
}

async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  try {
    return schema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    return undefined;
  }
}
