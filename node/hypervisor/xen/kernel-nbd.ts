/**
 * `/dev/nbdN`: the kernel's NBD client on connections that we open and negotiate. Asked by netlink rather than by
 * nbd-client, which neither keeps a guest's requests when a server dies nor gives a device another connection.
 */

import { readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { HypervisorError } from "../errors.ts";
import {
  decodeReplies,
  encodeConnect,
  encodeDisconnect,
  encodeGetFamily,
  encodeReconfigure,
  familyOf,
  indexOf,
  type NbdConnect,
  type NetlinkReply,
} from "./nbd-netlink.ts";

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const NETLINK_GENERIC = 16;
const DATAGRAM_BYTES_MAX = 8192;

type Koffi = typeof import("koffi");
type NetlinkCalls = {
  exchange(request: Buffer): NetlinkReply[];
};

let calls: NetlinkCalls | undefined;
let family: number | undefined;

/** Returns the device's number. Throws HYPERVISOR_PROCESS_FAILED. */
export function connectDevice(connect: NbdConnect): number {
  const replies = request(encodeConnect(nbdFamily(), connect), "connect");
  const answer = replies.find((reply) => reply.type === "answer");
  const index = answer === undefined ? undefined : indexOf(answer.attributes);
  if (index === undefined) throw failed("the kernel does not say which device it took");
  return index;
}

/** The device goes on with another connection if the one it had is dead; nothing changes otherwise. */
export function reconnectDevice(options: { index: number; fd: number; identifier: string }): void {
  request(encodeReconfigure(nbdFamily(), options), "reconfigure");
}

/** What waits for the device fails. A device that is not connected is left alone. */
export function disconnectDevice(index: number): void {
  request(encodeDisconnect(nbdFamily(), index), "disconnect");
}

/** What `connectDevice` called it; undefined when the device is not connected. */
export function identifierOf(index: number): string | undefined {
  try {
    return readFileSync(`/sys/block/nbd${index}/backend`, "utf8").trim();
  } catch {
    return undefined;
  }
}

/** Requests that the device has not answered yet. */
export function requestsInFlight(index: number): number {
  const [reads = "0", writes = "0"] = readFileSync(`/sys/block/nbd${index}/inflight`, "utf8")
    .trim()
    .split(/\s+/);
  return Number(reads) + Number(writes);
}

/** Resolves when the server behind the device has answered a flush: its connection is alive. */
export async function flushDevice(index: number): Promise<void> {
  const file = await open(devicePath(index), "r+");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

export function devicePath(index: number): string {
  return `/dev/nbd${index}`;
}

function request(message: Buffer, what: string): NetlinkReply[] {
  const replies = netlink().exchange(message);
  const error = replies.find((reply) => reply.type === "error");
  if (error !== undefined) throw failed(`the kernel does not ${what} an NBD device: ${nameOf(error.errno)}`);
  return replies;
}

function nbdFamily(): number {
  if (family !== undefined) return family;
  const replies = netlink().exchange(encodeGetFamily());
  const answer = replies.find((reply) => reply.type === "answer");
  family = answer === undefined ? undefined : familyOf(answer.attributes);
  if (family === undefined) throw failed("this kernel has no NBD client; load its module: modprobe nbd");
  return family;
}

function netlink(): NetlinkCalls {
  calls ??= load();
  return calls;
}

/** A socket per question: nobody else's answer can come in between. The kernel answers before `send` returns. */
function load(): NetlinkCalls {
  const koffi = createRequire(import.meta.url)("koffi") as Koffi;
  const libc = koffi.load("libc.so.6");
  const socket = libc.func("int socket(int domain, int type, int protocol)");
  const send = libc.func("int64_t send(int fd, const void *data, size_t length, int flags)");
  const recv = libc.func("int64_t recv(int fd, _Out_ void *data, size_t length, int flags)");
  const close = libc.func("int close(int fd)");
  return {
    exchange: (message) => {
      const fd = Number(socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC));
      if (fd < 0) throw failed(`netlink: ${nameOf(koffi.errno())}`);
      try {
        if (Number(send(fd, message, message.length, 0)) < 0)
          throw failed(`netlink: ${nameOf(koffi.errno())}`);
        const replies: NetlinkReply[] = [];
        // A question of the families is not acknowledged: its answer is all that comes.
        const isOver = (): boolean =>
          replies.some(({ type }) => type !== "answer") || (replies.length > 0 && isQuestion(message));
        while (!isOver()) {
          const bytes = Buffer.alloc(DATAGRAM_BYTES_MAX);
          const length = Number(recv(fd, bytes, bytes.length, 0));
          if (length < 0) throw failed(`netlink: ${nameOf(koffi.errno())}`);
          replies.push(...decodeReplies(bytes.subarray(0, length)));
        }
        return replies;
      } finally {
        close(fd);
      }
    },
  };
}

function isQuestion(message: Buffer): boolean {
  return message.equals(encodeGetFamily());
}

function nameOf(errno: number): string {
  return Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
}

function failed(reason: string): HypervisorError {
  return new HypervisorError({ code: "HYPERVISOR_PROCESS_FAILED", reason });
}
