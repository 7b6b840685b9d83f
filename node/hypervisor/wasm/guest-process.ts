/**
 * The executable of one wasm domain: `guest-process <domain folder>`.
 *
 * It is started by a daemon and outlives it. What it says goes to the domain's log; that it is ready, and where
 * a memory stream may be written to, goes to file descriptor 3 as one line of JSON.
 */

import { closeSync, writeSync } from "node:fs";
import { flushCompileCache } from "node:module";
import { basename, dirname } from "node:path";
import { z } from "zod";
import { DomainFolder } from "../domain-folder.ts";
import { HypervisorError } from "../errors.ts";
import { type Json, type RequestContext, serveControl } from "./control-socket.ts";
import { GuestDomain } from "./guest-domain.ts";
import { connectVbd } from "./nbd-block-client.ts";

const READY_FD = 3;

const Request = z.discriminatedUnion("op", [
  z.object({ op: z.literal("status") }),
  z.object({ op: z.literal("inspect") }),
  z.object({ op: z.literal("suspend") }),
  z.object({ op: z.literal("resume") }),
  z.object({ op: z.literal("shutdown") }),
  z.object({ op: z.literal("destroy") }),
  z.object({ op: z.literal("verify") }),
  z.object({ op: z.literal("migrate-out") }),
  z.object({ op: z.literal("freeze") }),
  z.object({ op: z.literal("thaw") }),
  z.object({ op: z.literal("cancel") }),
  z.object({ op: z.literal("loaded"), memoryBytes: z.int().min(0) }),
]);

async function handle(domain: GuestDomain, json: Json, { emit, closed }: RequestContext): Promise<Json> {
  const request = Request.parse(json);
  switch (request.op) {
    case "status":
      return domain.status();
    case "inspect":
      return { figures: domain.inspect() };
    case "suspend":
      await domain.suspend();
      return {};
    case "resume":
      domain.resume();
      return {};
    case "shutdown":
      await domain.shutDown();
      return {};
    case "destroy":
      // No reply: the end of the connection says that nothing of this process is left.
      process.kill(process.pid, "SIGKILL");
      return {};
    case "verify":
      return { result: await domain.verify() };
    case "migrate-out": {
      const { streamPath, cancel } = await domain.migrateOut({
        onRound: (round) => emit({ event: "round", ...round }),
        onEnded: (ended) => emit({ event: "ended", ...ended }),
      });
      void closed.then(cancel);
      return { streamPath };
    }
    case "freeze":
      await domain.freeze();
      return {};
    case "thaw":
      await domain.thaw();
      return {};
    case "cancel":
      domain.cancel();
      return {};
    case "loaded":
      await domain.loaded(request.memoryBytes);
      return {};
  }
}

function ready(line: Json): void {
  writeSync(READY_FD, `${JSON.stringify(line)}\n`);
  closeSync(READY_FD);
}

async function main(path: string): Promise<void> {
  const folder = new DomainFolder({ runDir: dirname(path), id: basename(path) });
  folder.writeProcess();
  process.on("uncaughtException", (error) => {
    console.error("guest process failed", error);
    folder.writeExit({ state: "crashed", detail: error.message });
    process.exit(1);
  });
  try {
    const file = await folder.domain();
    if (!file) throw new Error(`no domain.json in ${path}`);
    // A reply that is still on its way to whoever asked for the end goes out first.
    const onEnd = (): void => void setImmediate(() => process.exit(0));
    const domain = new GuestDomain({ folder, file, connect: connectVbd, onEnd });
    await serveControl(folder.controlPath, (request, context) => handle(domain, request, context));
    const streamPath = await domain.begin();
    ready({ ok: true, pid: process.pid, streamPath });
    // Now, because a guest's process mostly ends by a kill.
    flushCompileCache();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    folder.writeExit({ state: "crashed", detail: reason });
    const detail = { code: "HYPERVISOR_PROCESS_FAILED", reason };
    ready({ ok: false, error: error instanceof HypervisorError ? error.detail : detail });
    process.exit(1);
  }
}

await main(process.argv[2] ?? "");
