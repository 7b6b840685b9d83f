/** What the tests of the NBD server share: stores whose completions a test decides, servers, and raw octets. */
import { mkdtemp, rm } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { BlockStore, Completion, Extent } from "../../../storage/block-store.ts";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { NbdClient } from "../../../storage/nbd/client.ts";
import { encodeGo, encodeOption, encodeRequest } from "../../../storage/nbd/client-codec.ts";
import { NBD_OPT } from "../../../storage/nbd/constants.ts";
import { ExportRegistry, type NbdExport } from "../../../storage/nbd/export-registry.ts";
import { type NbdAddress, NbdServer, type NbdServerOptions } from "../../../storage/nbd/server.ts";

/** A store in memory whose operations complete at once, or wait until the test lets them. */
export class GatedStore implements BlockStore {
  readonly sizeBytes: number;
  readonly memory: MemoryBlockStore;
  /** Which operations wait. */
  gated: (operation: string) => boolean = () => false;
  /** Operations that came, in order: "write 0+4096". */
  readonly calls: string[] = [];
  #waiting: (() => void)[] = [];
  #arrivals: (() => void)[] = [];

  constructor({ sizeBytes }: { sizeBytes: number }) {
    this.sizeBytes = sizeBytes;
    this.memory = new MemoryBlockStore({ sizeBytes });
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Resolves once so many operations wait. */
  async untilWaiting(count: number): Promise<void> {
    while (this.#waiting.length < count) await new Promise<void>((resolve) => this.#arrivals.push(resolve));
  }

  /** Resolves once so many operations came since the store was made. */
  async untilCalled(count: number): Promise<void> {
    while (this.calls.length < count) await new Promise<void>((resolve) => this.#arrivals.push(resolve));
  }

  /** Lets what waits happen: all of it, or the first. */
  release(count = this.#waiting.length): void {
    for (const proceed of this.#waiting.splice(0, count)) proceed();
  }

  read(offset: number, target: Uint8Array): Completion {
    return this.#pass("read", offset, target.length, () => this.memory.read(offset, target));
  }
  write(offset: number, data: Uint8Array): Completion {
    return this.#pass("write", offset, data.length, () => this.memory.write(offset, data));
  }
  writeZeroes(offset: number, length: number, options: { mayUnmap: boolean }): Completion {
    const name = options.mayUnmap ? "zero" : "zero-keep";
    return this.#pass(name, offset, length, () => this.memory.writeZeroes(offset, length, options));
  }
  trim(offset: number, length: number): Completion {
    return this.#pass("trim", offset, length, () => this.memory.trim(offset, length));
  }
  flush(): Completion {
    return this.#pass("flush", 0, 0, () => this.memory.flush());
  }
  extents(offset: number, length: number): readonly Extent[] {
    return this.memory.extents(offset, length);
  }
  close(): Promise<void> {
    return this.memory.close();
  }

  #pass(name: string, offset: number, length: number, operation: () => Completion): Completion {
    this.calls.push(name === "flush" ? name : `${name} ${offset}+${length}`);
    const waits = this.gated(name);
    const result = waits
      ? new Promise<void>((resolve) => this.#waiting.push(resolve)).then(operation)
      : operation();
    const arrivals = this.#arrivals;
    this.#arrivals = [];
    for (const arrived of arrivals) arrived();
    return result;
  }
}

/** A directory that goes with the test. */
export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "sojourn-nbd-"));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

export function exportOf(store: BlockStore, fields: Partial<NbdExport> = {}): NbdExport {
  const plain = { name: "disk", readOnly: false, description: "", canMultiConn: true, listed: false };
  return { ...plain, store, ...fields };
}

export type Served = { address: NbdAddress; exports: ExportRegistry; server: NbdServer };

/** A server with these exports on a unix socket, until the test ends. */
export async function serve(
  exported: readonly NbdExport[],
  options: Partial<NbdServerOptions> = {},
  registry = new ExportRegistry(),
): Promise<Served> {
  const directory = await temporaryDirectory();
  for (const each of exported) registry.add(each);
  const server = new NbdServer({ exports: registry }, options);
  const address = await server.listen({ unixPath: join(directory, "nbd.sock") });
  onTestFinished(() => server.stop());
  return { address, exports: registry, server };
}

/** A client that sends whatever it likes. */
export class RawClient {
  readonly socket: Socket;
  #received: Buffer[] = [];
  #receivedBytes = 0;
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(address: NbdAddress) {
    this.socket =
      "unixPath" in address ? connect(address.unixPath) : connect({ host: address.host, port: address.port });
    this.socket.on("error", () => {});
    this.socket.on("data", (bytes: Buffer) => {
      this.#received.push(bytes);
      this.#receivedBytes += bytes.length;
      this.#wake?.();
    });
    this.socket.on("close", () => {
      this.#ended = true;
      this.#wake?.();
    });
    onTestFinished(() => void this.socket.destroy());
  }

  send(...parts: (Buffer | string)[]): void {
    this.socket.write(Buffer.concat(parts.map((part) => (typeof part === "string" ? octets(part) : part))));
  }

  /** The next octets; fails when the server closes before. */
  async take(sizeBytes: number): Promise<Buffer> {
    while (this.#receivedBytes < sizeBytes) {
      if (this.#ended) throw new Error(`closed after ${this.#receivedBytes} of ${sizeBytes} octets`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const all = Buffer.concat(this.#received);
    this.#received = [all.subarray(sizeBytes)];
    this.#receivedBytes -= sizeBytes;
    return all.subarray(0, sizeBytes);
  }

  /** Resolves when the server has closed, with what it sent before. */
  async closed(): Promise<Buffer> {
    while (!this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return Buffer.concat(this.#received);
  }
}

/** Octets from hexadecimal digits; blanks separate fields. */
export function octets(hex: string): Buffer {
  return Buffer.from(hex.replaceAll(" ", ""), "hex");
}

export const SIZE_BYTES = 64 << 20;

/** A client that goes with the test. */
export async function connected(
  address: NbdAddress,
  options: { exportName?: string; contexts?: string[] } = {},
) {
  const client = await NbdClient.connect(address, { exportName: "disk", ...options });
  onTestFinished(() => client.destroy());
  return client;
}

/** A client in its transmission phase that has agreed on nothing but the name. */
export async function rawConnected(address: NbdAddress, { structured = false } = {}): Promise<RawClient> {
  const raw = new RawClient(address);
  raw.send("00000003");
  let expected = 18 + 32 + 34 + 20;
  if (structured) {
    raw.send(encodeOption(NBD_OPT.STRUCTURED_REPLY));
    expected += 20;
  }
  raw.send(encodeOption(NBD_OPT.GO, encodeGo("disk")));
  await raw.take(expected);
  return raw;
}

/** A request in octets. */
export function raw(
  command: number,
  fields: { cookie?: number; offset?: number; length?: number; flags?: number } = {},
) {
  return encodeRequest({ command, flags: 0, cookie: 1, offset: 0, length: 0, ...fields });
}

export function simpleReply(cookie: number, errno = 0): Buffer {
  const bytes = octets("67446698 00000000 00000000 00000000");
  bytes.writeUInt32BE(errno, 4);
  bytes.writeUInt32BE(cookie, 12);
  return bytes;
}
