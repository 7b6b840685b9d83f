/** Starts a QEMU that outlives us, and waits until it takes commands. */

import { spawn } from "node:child_process";
import { open, readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import type { QmpConnections, QmpLease } from "../../qmp/qmp-connections.ts";
import type { DomainFolder } from "../domain-folder.ts";
import { HypervisorError } from "../errors.ts";

export type QemuExit = { code: number | null; signal: string | null };

const CONNECT_EVERY_MS = 5;
const LOG_TAIL_CHARS = 600;

export async function launchQemu(
  folder: DomainFolder,
  {
    executable,
    args,
    qmp,
    onExit,
  }: { executable: string; args: readonly string[]; qmp: QmpConnections; onExit: (exit: QemuExit) => void },
): Promise<{ pid: number; lease: QmpLease }> {
  const log = await open(folder.logPath, "a");
  const ended = Promise.withResolvers<QemuExit | Error>();
  try {
    const child = spawn(executable, args, {
      // A session of its own: no terminal's signal and no end of ours reaches it.
      detached: true,
      cwd: "/",
      stdio: ["ignore", log.fd, log.fd],
      env: { PATH: process.env.PATH ?? "" },
    });
    child.once("error", (error) => ended.resolve(error));
    child.once("exit", (code, signal) => {
      ended.resolve({ code, signal });
      onExit({ code, signal });
    });
    child.unref();
    if (child.pid !== undefined) folder.writeProcess(child.pid);
    const lease = await Promise.race([connected(qmp, folder.controlPath, ended.promise), ended.promise]);
    if ("client" in lease) return { pid: child.pid!, lease };
    const reason =
      lease instanceof Error
        ? `${executable} cannot be run: ${lease.message}; set qemu.executable on this host`
        : `QEMU did not begin (${lease.signal ?? lease.code}): ${await logTail(folder)}`;
    throw new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason });
  } finally {
    await log.close();
  }
}

/** What QEMU said last, for people. */
export async function logTail(folder: DomainFolder): Promise<string> {
  return (await readFile(folder.logPath, "utf8").catch(() => "")).slice(-LOG_TAIL_CHARS).trim();
}

/** QEMU makes its socket early and listens a little later; it says nothing of it, so it is tried. */
async function connected(qmp: QmpConnections, path: string, ended: Promise<unknown>): Promise<QmpLease> {
  let isOver = false;
  void ended.then(() => {
    isOver = true;
  });
  for (;;) {
    try {
      return await qmp.acquire(path);
    } catch (error) {
      if (isOver) throw error;
      await pause(CONNECT_EVERY_MS);
    }
  }
}
