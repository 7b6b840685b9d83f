/** Two vbds on files, with the logs of one generation, and an NBD server for their exports. */

import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type { NbdAttachmentOptions, NbdVbd } from "../../../node/attachment/nbd-attachment.ts";
import { systemClock } from "../../../node/clock.ts";
import { BlockBitmap } from "../../../protocol/block-bitmap.ts";
import { blockCountOf } from "../../../protocol/units.ts";
import { FdByteFile } from "../../../storage/byte-file.ts";
import { DirtyLog } from "../../../storage/dirty-log.ts";
import { FileBlockStore } from "../../../storage/file-block-store.ts";
import { ExportRegistry } from "../../../storage/nbd/export-registry.ts";
import { NbdServer } from "../../../storage/nbd/server.ts";
import { PresenceLog } from "../../../storage/presence-log.ts";
import { type Incoming, VBD_BYTES, VBD_COUNT } from "../../contract/attachment.contract.ts";

export const GENERATION = 3;
export const MIGRATION = "m-1";
export const BOOT_ID = "boot-1";
const BLOCK_COUNT = blockCountOf(VBD_BYTES);

export class AttachmentFolder {
  exports = new ExportRegistry();
  server = new NbdServer({ exports: this.exports });
  readonly nbdSocketPath: string;
  vbds: readonly NbdVbd[];
  #devices: readonly string[] = [];

  constructor(folder: string) {
    this.nbdSocketPath = join(folder, "nbd");
    this.vbds = Array.from({ length: VBD_COUNT }, (_, index) => ({
      name: `disk${index}`,
      path: join(folder, `disk${index}.raw`),
      sizeBytes: VBD_BYTES,
      exportName: `disk${index}-${GENERATION}-${randomBytes(8).toString("hex")}`,
      dirtyLogPath: join(folder, `disk${index}.written`),
      presenceLogPath: join(folder, `disk${index}.missing`),
    }));
  }

  async begin({ missing }: { missing?: readonly BlockBitmap[] } = {}): Promise<void> {
    await this.server.listen({ unixPath: this.nbdSocketPath });
    for (const [index, vbd] of this.vbds.entries()) {
      await FileBlockStore.create(vbd.path, { sizeBytes: vbd.sizeBytes }).close();
      await FdByteFile.create(vbd.dirtyLogPath).close();
      if (missing === undefined) continue;
      const options = { generation: GENERATION, bootId: BOOT_ID };
      const presence = await PresenceLog.create(FdByteFile.create(vbd.presenceLogPath), {
        ...options,
        migration: MIGRATION,
        missing: missing[index] ?? new BlockBitmap(BLOCK_COUNT),
      });
      await presence.close();
    }
    await this.beginLogs();
  }

  /** Empty ones, in the place of those that are there. */
  async beginLogs(): Promise<void> {
    const options = { generation: GENERATION, bootId: BOOT_ID, blockCount: BLOCK_COUNT };
    for (const { dirtyLogPath } of this.vbds) {
      const log = await DirtyLog.create(FdByteFile.open(dirtyLogPath), options);
      await log.close({ clean: true });
    }
  }

  options(incoming?: Incoming): NbdAttachmentOptions {
    const { vbds, exports } = this;
    const common = { vbds, generation: GENERATION, bootId: BOOT_ID, exports, clock: systemClock };
    if (incoming === undefined) return common;
    const { pull, complete } = incoming;
    return { ...common, incoming: { migration: MIGRATION, pull, complete } };
  }

  /** As a kill of the daemon and its next start: nothing is closed in order, every connection breaks. */
  async restart(): Promise<void> {
    await this.server.stop();
    this.exports = new ExportRegistry();
    this.server = new NbdServer({ exports: this.exports });
    await this.server.listen({ unixPath: this.nbdSocketPath });
  }

  /** Puts a loop device over each vbd's file. Throws where there are none, or we are not root. */
  useDevices(): void {
    this.vbds = this.vbds.map((vbd) => {
      const device = execFileSync("losetup", ["--find", "--show", vbd.path], { stdio: "pipe" });
      this.#devices = [...this.#devices, device.toString().trim()];
      return { ...vbd, path: this.#devices.at(-1)! };
    });
  }

  async end(): Promise<void> {
    await this.server.stop();
    for (const device of this.#devices) execFileSync("losetup", ["--detach", device]);
  }
}
