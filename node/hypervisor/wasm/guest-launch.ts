/** Starts a guest process that outlives us, and waits until it says that it is ready. */

import { type ChildProcess, spawn } from "node:child_process";
import { open, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import type { DomainFolder } from "../domain-folder.ts";
import { HypervisorError, type HypervisorErrorDetail } from "../errors.ts";

export type Launched = { pid: number; streamPath?: string };

const READY_FD = 3;
const LOG_TAIL_CHARS = 600;

export type GuestExit = { code: number | null; signal: string | null };

/** `onExit` is told how the process ended, if we still live then. */
export async function launchGuest(
  folder: DomainFolder,
  { onExit }: { onExit: (exit: GuestExit) => void },
): Promise<Launched> {
  const log = await open(folder.logPath, "a");
  // The same file that we are: TypeScript in a checkout, JavaScript where it was built.
  const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
  const script = fileURLToPath(new URL(`./guest-process.${extension}`, import.meta.url));
  let child: ChildProcess;
  try {
    child = spawn(process.execPath, [script, folder.path], {
      // A session of its own: no terminal's signal and no end of ours reaches it.
      detached: true,
      cwd: "/",
      stdio: ["ignore", log.fd, log.fd, "pipe"],
      env: environment(folder),
    });
    child.once("exit", (code, signal) => onExit({ code, signal }));
    child.unref();
  } finally {
    await log.close();
  }
  const failed = new Promise<never>((_, reject) => child.once("error", reject));
  const line = await Promise.race([readAll(child.stdio[READY_FD] as Readable), failed]);
  if (line === "") {
    const tail = (await readFile(folder.logPath, "utf8").catch(() => "")).slice(-LOG_TAIL_CHARS);
    throw new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason: `it did not begin: ${tail}` });
  }
  const answer = JSON.parse(line) as Launched & { ok: boolean; error?: HypervisorErrorDetail };
  if (!answer.ok) throw new HypervisorError(answer.error!);
  return answer;
}

/** Nothing of ours, but a cache of compiled code that makes a process ready in a third of the time. */
function environment(folder: DomainFolder): Record<string, string> {
  // Beside the domains, so that whoever may write to it could start them anyway.
  const cache = process.env.NODE_COMPILE_CACHE ?? join(dirname(folder.path), ".compile-cache");
  return { PATH: process.env.PATH ?? "", NODE_COMPILE_CACHE: cache };
}

async function readAll(stream: Readable): Promise<string> {
  let text = "";
  for await (const chunk of stream.setEncoding("utf8")) text += chunk;
  return text;
}
