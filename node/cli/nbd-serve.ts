/** `sojourn nbd-serve`: one file or device over NBD, without a daemon. */

import type { Command } from "commander";
import { integer } from "./arguments.ts";
import { addCommand } from "./command.ts";
import { UsageError } from "./output.ts";

type NbdServeOptions = { unix?: string; port?: number; readOnly?: boolean };

export function addNbdServe(program: Command): void {
  addCommand(program, "nbd-serve <file>", {
    summary: "serve a file or device over NBD, until Ctrl-C",
    example: "sojourn nbd-serve disk.img --unix /tmp/disk.sock",
  })
    .option("--unix <path>", "listen on this unix socket")
    .option("--port <n>", "listen on this TCP port of 127.0.0.1", integer({ min: 0, max: 65_535 }))
    .option("--read-only", "refuse writes")
    .action(serve);
}

async function serve(file: string, { unix, port, readOnly = false }: NbdServeOptions): Promise<void> {
  if ((unix === undefined) === (port === undefined)) {
    throw new UsageError("nbd-serve needs a place to listen: --unix PATH or --port N");
  }
}
