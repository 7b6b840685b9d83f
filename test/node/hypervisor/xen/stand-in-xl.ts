/**
 * An `xl` without Xen: a program of that name that sends a recorded stream as `xl migrate` does, or takes one as
 * `xl migrate-receive` does, and notes what it was told.
 */

import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BANNER, RECEIVED } from "../../../../node/hypervisor/xen/xl-handshake.ts";

const PROGRAM = `
const { spawn } = require("node:child_process");
const { appendFileSync, readFileSync, writeFileSync } = require("node:fs");
const folder = __dirname;
const [command, ...args] = process.argv.slice(2);
const note = (name, text) => appendFileSync(folder + "/" + name, text);
note("pids", process.pid + "\\n");
const stream = readFileSync(folder + "/stream");
if (command === "migrate") {
  const child = spawn("sh", ["-c", args.at(-1)], { stdio: ["pipe", "pipe", "inherit", 3] });
  child.stdout.on("data", (data) => {
    note("said", data);
    // The stream's end is not the end of its pipe: xl waits for an answer.
    if (readFileSync(folder + "/said", "latin1").endsWith(${JSON.stringify(BANNER)})) child.stdin.write(stream);
  });
  child.stdin.on("error", () => {});
  child.on("exit", () => process.exit(1));
} else if (command === "migrate-receive") {
  process.stdout.write(${JSON.stringify(BANNER)});
  let taken = 0;
  process.stdin.on("data", (data) => {
    note("taken", data);
    taken += data.length;
    if (taken === stream.length) process.stdout.write(${JSON.stringify(RECEIVED)});
  });
  process.stdin.on("end", () => {
    note("tidied", "yes");
    process.exit(1);
  });
}
`;

export class StandInXl {
  readonly folder = mkdtempSync(join(tmpdir(), "sojourn-xl-"));
  readonly command = join(this.folder, "xl");

  constructor(stream: Buffer) {
    writeFileSync(join(this.folder, "stream"), stream);
    writeFileSync(join(this.folder, "program.cjs"), PROGRAM);
    writeFileSync(this.command, `#!/bin/sh\nexec '${process.execPath}' '${this.folder}/program.cjs' "$@"\n`);
    chmodSync(this.command, 0o755);
  }

  get logPath(): string {
    return join(this.folder, "log");
  }

  /** What it noted; empty when nothing. */
  noted(name: "said" | "taken" | "tidied"): Buffer {
    const path = join(this.folder, name);
    return existsSync(path) ? readFileSync(path) : Buffer.alloc(0);
  }

  /** Processes that it was, those that run. */
  running(): number[] {
    const path = join(this.folder, "pids");
    const pids = existsSync(path) ? readFileSync(path, "utf8").trim().split("\n").map(Number) : [];
    return pids.filter((pid) => existsSync(`/proc/${pid}`));
  }

  remove(): void {
    for (const pid of this.running()) process.kill(pid, "SIGKILL");
    rmSync(this.folder, { recursive: true });
  }
}
