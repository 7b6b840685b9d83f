/** Vbds for guests under test: block stores in memory behind the real NBD server, on a unix socket. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { VbdAttachment } from "../../../../node/hypervisor/hypervisor.ts";
import type { BlockStore, Completion } from "../../../../storage/block-store.ts";
import { MemoryBlockStore } from "../../../../storage/memory-block-store.ts";
import { ExportRegistry } from "../../../../storage/nbd/export-registry.ts";
import { NbdServer } from "../../../../storage/nbd/server.ts";

/** Counts what reaches a store, and tells whoever waits for a further request. */
export class CountingStore implements BlockStore {
  readonly sizeBytes: number;
  requests = 0;
  readonly #store: BlockStore;
  #waiting: { count: number; resolve: () => void }[] = [];
  #hold: PromiseWithResolvers<void> | undefined;
  #held: PromiseWithResolvers<void> | undefined;

  constructor(store: BlockStore) {
    this.#store = store;
    this.sizeBytes = store.sizeBytes;
  }

  /** Resolves when that many further requests came. */
  further(requests: number): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ count: this.requests + requests, resolve }));
  }

  /** Writes are done from now on, and not answered. */
  hold(): void {
    this.#hold = Promise.withResolvers();
    this.#held = Promise.withResolvers();
  }

  /** Resolves when an answer is held back. */
  held(): Promise<void> {
    return this.#held?.promise ?? Promise.resolve();
  }

  release(): void {
    this.#hold?.resolve();
    this.#hold = undefined;
  }

  read(offset: number, target: Uint8Array): Completion {
    this.#count();
    return this.#store.read(offset, target);
  }

  write(offset: number, data: Uint8Array): Completion {
    this.#count();
    const done = this.#store.write(offset, data);
    if (!this.#hold) return done;
    this.#held?.resolve();
    return this.#hold.promise;
  }

  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion {
    this.#count();
    return this.#store.writeZeroes(offset, length, options);
  }

  trim(offset: number, length: number): Completion {
    this.#count();
    return this.#store.trim(offset, length);
  }

  flush(): Completion {
    this.#count();
    return this.#store.flush();
  }

  extents(offset: number, length: number): ReturnType<BlockStore["extents"]> {
    return this.#store.extents(offset, length);
  }

  close(): Promise<void> {
    return this.#store.close();
  }

  #count(): void {
    this.requests++;
    const due = this.#waiting.filter(({ count }) => count <= this.requests);
    this.#waiting = this.#waiting.filter(({ count }) => count > this.requests);
    for (const { resolve } of due) resolve();
  }
}

export type NbdVbds = {
  dir: string;
  vbds: VbdAttachment[];
  stores: CountingStore[];
  /** Cuts every connection and listens again, as a restart of the daemon does. */
  restart(): Promise<void>;
  close(): Promise<void>;
};

export async function serveVbds(sizes: readonly number[]): Promise<NbdVbds> {
  const dir = await mkdtemp(join(tmpdir(), "sjw-"));
  const socketPath = join(dir, "nbd");
  const stores = sizes.map((sizeBytes) => new CountingStore(new MemoryBlockStore({ sizeBytes })));
  const serve = async (): Promise<NbdServer> => {
    const exports = new ExportRegistry();
    for (const [index, store] of stores.entries()) {
      const common = { readOnly: false, description: "", canMultiConn: true, listed: false };
      exports.add({ ...common, name: `vbd-${index}`, store });
    }
    const server = new NbdServer({ exports });
    await server.listen({ unixPath: socketPath });
    return server;
  };
  let server = await serve();
  return {
    dir,
    stores,
    vbds: sizes.map((sizeBytes, index) => ({
      name: `xvd${String.fromCharCode(97 + index)}`,
      sizeBytes,
      socketPath,
      exportName: `vbd-${index}`,
    })),
    restart: async () => {
      await server.stop();
      server = await serve();
    },
    close: async () => {
      await server.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
}
