/** One file or block device as an NBD export: `sojourn nbd-serve FILE --unix PATH`. */
import { stat } from "node:fs/promises";
import { DeviceBlockStore } from "../device-block-store.ts";
import { FileBlockStore } from "../file-block-store.ts";
import { ExportRegistry } from "./export-registry.ts";
import { type NbdAddress, type NbdLog, NbdServer } from "./server.ts";

export type ServeFileOptions = {
  path: string;
  address: NbdAddress;
  readOnly: boolean;
  /** What clients ask for; the empty name leads here too. */
  exportName?: string;
  log?: NbdLog;
};

export type ServedFile = {
  /** With the port that was chosen. */
  address: NbdAddress;
  sizeBytes: number;
  /** Answers what is in flight, then closes connections and file. */
  stop(): Promise<void>;
};

/** Fails as the store does (`STORAGE_NOT_FOUND`, …), or with `NBD_SOCKET_IN_USE`. */
export async function serveFile(options: ServeFileOptions): Promise<ServedFile> {
  const { path, readOnly, exportName: name = "", log } = options;
  const isDevice = (await stat(path).catch(() => undefined))?.isBlockDevice() ?? false;
  const store = isDevice
    ? DeviceBlockStore.open(path, { readOnly })
    : FileBlockStore.open(path, { readOnly });
  const exports = new ExportRegistry({ defaultName: name });
  exports.add({ name, store, readOnly, description: "", canMultiConn: true, listed: true });
  const server = new NbdServer({ exports, ...(log === undefined ? {} : { log }) });
  try {
    const address = await server.listen(options.address);
    const stop = async (): Promise<void> => {
      await exports.remove(name);
      await server.stop();
      await store.close();
    };
    return { address, sizeBytes: store.sizeBytes, stop };
  } catch (error) {
    await store.close();
    throw error;
  }
}
