import { mkdtempSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  exportSocket,
  type KernelSocket,
  placeholderSocket,
} from "../../../../node/hypervisor/xen/nbd-socket.ts";
import { MemoryBlockStore } from "../../../../storage/memory-block-store.ts";
import {
  NBD_CMD,
  NBD_ERRNO,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
} from "../../../../storage/nbd/constants.ts";
import { ExportRegistry } from "../../../../storage/nbd/export-registry.ts";
import { NbdServer } from "../../../../storage/nbd/server.ts";

const SIZE_BYTES = 1 << 20;

describe("a connection for the kernel's NBD client", () => {
  let folder: string;
  let server: NbdServer;
  let socketPath: string;
  let opened: KernelSocket[];

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "sojourn-nbd-"));
    socketPath = join(folder, "nbd.sock");
    opened = [];
    const store = new MemoryBlockStore({ sizeBytes: SIZE_BYTES });
    store.write(4096, Buffer.alloc(4096, 0x77));
    const exports = new ExportRegistry();
    const name = "root-1-abc";
    exports.add({ name, store, readOnly: false, description: "", canMultiConn: true, listed: false });
    server = new NbdServer({ exports });
    await server.listen({ unixPath: socketPath });
  });

  afterEach(async () => {
    for (const { release } of opened) release();
    await server.stop();
    rmSync(folder, { recursive: true });
  });

  const vbd = { name: "root", sizeBytes: SIZE_BYTES, exportName: "root-1-abc" };

  /** As the kernel asks: on the descriptor, and without structured replies. */
  async function ask(
    { fd }: KernelSocket,
    command: number,
    { offset = 0, length = 0, payload = Buffer.alloc(0), replyBytes = 0 },
  ): Promise<{ error: number; data: Buffer }> {
    const request = Buffer.alloc(28);
    request.writeUInt32BE(NBD_REQUEST_MAGIC, 0);
    request.writeUInt16BE(command, 6);
    request.writeBigUInt64BE(0x1122334455667788n, 8);
    request.writeBigUInt64BE(BigInt(offset), 16);
    request.writeUInt32BE(length, 24);
    writeSync(fd, Buffer.concat([request, payload]));
    const reply = Buffer.alloc(16 + replyBytes);
    for (let at = 0; at < reply.length; ) {
      // The server runs on this thread, too.
      await new Promise((resolve) => setImmediate(resolve));
      try {
        at += readSync(fd, reply, at, reply.length - at, null);
      } catch (error) {
        if ((error as { code?: string }).code !== "EAGAIN") throw error;
      }
    }
    expect(reply.readUInt32BE(0)).toBe(NBD_SIMPLE_REPLY_MAGIC);
    expect(reply.readBigUInt64BE(8)).toBe(0x1122334455667788n);
    return { error: reply.readUInt32BE(4), data: reply.subarray(16) };
  }

  it("is negotiated with an export, and left at its first request", async () => {
    const socket = await exportSocket({ ...vbd, socketPath });
    opened.push(socket);
    expect(socket.sizeBytes).toBe(SIZE_BYTES);
    const { error, data } = await ask(socket, NBD_CMD.READ, { offset: 4096, length: 512, replyBytes: 512 });
    expect(error).toBe(0);
    expect(data.equals(Buffer.alloc(512, 0x77))).toBe(true);
  });

  it("is refused where there is no such export, or one of another size", async () => {
    await expect(exportSocket({ ...vbd, socketPath, exportName: "root-2-abc" })).rejects.toMatchObject({
      code: "NBD_EXPORT_UNKNOWN",
    });
    await expect(exportSocket({ ...vbd, socketPath, sizeBytes: 4096 })).rejects.toMatchObject({
      code: "HYPERVISOR_BAD_SPEC",
    });
  });

  it("to a placeholder reads as zeroes, flushes, and takes no write", async () => {
    const { socket, end } = await placeholderSocket(join(folder, "placeholder"), { sizeBytes: SIZE_BYTES });
    opened.push(socket);
    const { error, data } = await ask(socket, NBD_CMD.READ, { length: 4096, replyBytes: 4096 });
    expect(error).toBe(0);
    expect(data.equals(Buffer.alloc(4096))).toBe(true);
    expect((await ask(socket, NBD_CMD.FLUSH, {})).error).toBe(0);
    const payload = Buffer.alloc(512, 1);
    const refused = await ask(socket, NBD_CMD.WRITE, { length: payload.length, payload });
    expect(refused.error).toBe(NBD_ERRNO.EPERM);
    end();
  });
});
