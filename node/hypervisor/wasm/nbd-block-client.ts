import { connect, type Socket } from "node:net";
import type { VbdAttachment } from "../hypervisor.ts";
import type { BlockClient } from "./guest-runner.ts";

/** TEMPORARY until storage/nbd/client.ts is there. */
export function connectVbd(vbd: VbdAttachment): BlockClient {
  const socket: Socket = connect(vbd.socketPath);
  let buf = Buffer.alloc(0);
  let state = 0;
  let cookie = 0;
  const queue: Buffer[] = [];
  const pending = new Map<
    number,
    { type: number; target?: Uint8Array; resolve: () => void; reject: (e: Error) => void }
  >();
  const send = (parts: Buffer[]): void => {
    if (state < 2) queue.push(...parts);
    else for (const part of parts) socket.write(part);
  };
  const request = (type: number, offset: number, length: number, data?: Uint8Array, target?: Uint8Array) =>
    new Promise<void>((resolve, reject) => {
      const id = ++cookie;
      const head = Buffer.alloc(28);
      head.writeUInt32BE(0x25609513, 0);
      head.writeUInt16BE(type, 6);
      head.writeUInt32BE(id, 12);
      head.writeBigUInt64BE(BigInt(offset), 16);
      head.writeUInt32BE(length, 24);
      pending.set(id, target ? { type, target, resolve, reject } : { type, resolve, reject });
      send(data ? [head, Buffer.from(data.buffer, data.byteOffset, data.byteLength)] : [head]);
    });
  socket.on("error", (e) => console.error(e));
  socket.on("data", (d) => {
    buf = buf.length ? Buffer.concat([buf, d]) : d;
    for (;;) {
      if (state === 0) {
        if (buf.length < 18) return;
        buf = buf.subarray(18);
        const name = Buffer.from(vbd.exportName);
        const out = Buffer.alloc(4 + 16 + 4 + name.length + 2);
        out.writeUInt32BE(3, 0);
        out.write("IHAVEOPT", 4, "latin1");
        out.writeUInt32BE(7, 12);
        out.writeUInt32BE(6 + name.length, 16);
        out.writeUInt32BE(name.length, 20);
        name.copy(out, 24);
        socket.write(out);
        state = 1;
      } else if (state === 1) {
        if (buf.length < 20) return;
        const type = buf.readUInt32BE(12);
        const length = buf.readUInt32BE(16);
        if (buf.length < 20 + length) return;
        buf = buf.subarray(20 + length);
        if (type >= 0x80000000) throw new Error(`option refused ${type}`);
        if (type === 1) {
          state = 2;
          for (const part of queue.splice(0)) socket.write(part);
        }
      } else {
        if (buf.length < 16) return;
        const error = buf.readUInt32BE(4);
        const id = buf.readUInt32BE(12);
        const p = pending.get(id)!;
        const length = p.target && error === 0 ? p.target.length : 0;
        if (buf.length < 16 + length) return;
        if (length) p.target!.set(buf.subarray(16, 16 + length));
        buf = buf.subarray(16 + length);
        pending.delete(id);
        if (error) p.reject(Object.assign(new Error(`nbd ${error}`), { detail: { errno: error } }));
        else p.resolve();
      }
    }
  });
  return {
    read: (offset, target) => request(0, offset, target.length, undefined, target),
    write: (offset, data) => request(1, offset, data.length, data),
    flush: () => request(3, 0, 0),
    trim: (offset, length) => request(4, offset, length),
    writeZeroes: (offset, length) => request(6, offset, length),
    close: async () => void socket.destroy(),
  };
}
