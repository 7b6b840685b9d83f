/** `sojourn nbd-serve`: one file or device over NBD, without a daemon. */

import { once } from "node:events";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import type { Command } from "commander";
import { formatSize } from "../sizes.ts";
import { integer } from "./arguments.ts";
import { addCommand } from "./command.ts";
import { printable, UsageError } from "./output.ts";

type NbdServeOptions = { unix?: string; port?: number; readOnly?: boolean };

export function addNbdServe(program: Command): void {
  addCommand(program, "nbd-serve", {
    summary: "serve a file or device over NBD, until Ctrl-C",
    example: "sojourn nbd-serve disk.img --unix /tmp/disk.sock",
  })
    .argument("<file>", "a raw image or a block device")
    .option("--unix <path>", "listen on this unix socket")
    .option(
      "--port <n>",
      "listen on this TCP port of 127.0.0.1; 0 lets the system choose",
      integer({ min: 0, max: 65_535 }),
    )
    .option("--read-only", "refuse writes")
    .action(serve);
}

async function serve(file: string, { unix, port, readOnly = false }: NbdServeOptions): Promise<void> {
  if ((unix === undefined) === (port === undefined)) {
    throw new UsageError("nbd-serve needs one place to listen: --unix PATH or --port N");
  }
  if (!existsSync(file)) throw new UsageError(`there is no file ${file}`);
  const { serveFile } = await import("../../storage/nbd/serve-file.ts");
  const asked = unix === undefined ? { host: "127.0.0.1", port: port ?? 0 } : { unixPath: resolve(unix) };
  const stopAsked = Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
  const { address, sizeBytes, stop } = await serveFile({ path: resolve(file), address: asked, readOnly });
  const uri =
    "unixPath" in address
      ? `nbd+unix:///?socket=${address.unixPath}`
      : `nbd://${address.host}:${address.port}`;
  process.stdout.write(`serving ${printable(file)} (${formatSize(sizeBytes)}) at ${uri}\n`);
  await stopAsked;
  await stop();
}
