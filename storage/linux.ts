/**
 * The system calls that Node does not have, by a foreign-function interface: holes and allocation of files.
 *
 * The library is native code that may be missing on some machine. Then `linuxCalls` says undefined, and
 * everything still works: zeroes are written rather than punched, and allocation is unknown.
 */

import { createRequire } from "node:module";
import { constants } from "node:os";

/** Unmaps the range of a file (reads as zero, space given back), or of a device that can do so. */
export const FALLOC_PUNCH_HOLE = 0x02 | 0x01;
/** Zeroes the range and keeps the space reserved. Both keep the file's size. */
export const FALLOC_ZERO_RANGE = 0x10 | 0x01;

const SEEK_END = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

export interface LinuxCalls {
  /** 0, or the errno. Blocks the event loop: a range of some MiB at most. */
  fallocate(fd: number, options: { mode: number; offset: number; length: number }): number;
  /** The same on a thread, for long ranges. */
  fallocateLater(fd: number, options: { mode: number; offset: number; length: number }): Promise<number>;
  /** Start of the first data at or after `offset`: undefined when there is only a hole up to the end. */
  seekData(fd: number, offset: number): number | undefined;
  /** Start of the first hole at or after `offset`; the end of a file counts as one. */
  seekHole(fd: number, offset: number): number;
  /** Size of a file or device. */
  seekEnd(fd: number): number;
}

/** A call failed; `code` is the name of its errno, as in Node's own errors. */
export class SystemCallError extends Error {
  override readonly name = "SystemCallError";
  readonly code: string;
  constructor(call: string, errno: number) {
    const code =
      Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `errno ${errno}`;
    super(`${call}: ${code}`);
    this.code = code;
  }
}

let calls: LinuxCalls | undefined | null = null;

/** The calls, or undefined where the native library does not load. Loaded at the first use. */
export function linuxCalls(): LinuxCalls | undefined {
  if (calls === null) {
    try {
      calls = load();
    } catch {
      calls = undefined;
    }
  }
  return calls;
}

type Koffi = typeof import("koffi");

function load(): LinuxCalls | undefined {
  if (process.platform !== "linux") return undefined;
  const koffi = createRequire(import.meta.url)("koffi") as Koffi;
  const libc = koffi.load("libc.so.6");
  const fallocate = libc.func("int fallocate(int fd, int mode, int64_t offset, int64_t length)");
  const lseek = libc.func("int64_t lseek(int fd, int64_t offset, int whence)");

  const seek = (fd: number, offset: number, whence: number): number => {
    const found = Number(lseek(fd, offset, whence));
    return found < 0 ? -koffi.errno() : found;
  };
  return {
    fallocate: (fd, { mode, offset, length }) =>
      fallocate(fd, mode, offset, length) === 0 ? 0 : koffi.errno(),
    fallocateLater: (fd, { mode, offset, length }) =>
      new Promise((resolve) => {
        // errno belongs to the thread that made the call: asked again from here, the call repeats its failure.
        fallocate.async(fd, mode, offset, length, (_error: unknown, result: number) => {
          if (result === 0) resolve(0);
          else resolve(fallocate(fd, mode, offset, length) === 0 ? 0 : koffi.errno());
        });
      }),
    seekData: (fd, offset) => {
      const found = seek(fd, offset, SEEK_DATA);
      if (found === -constants.errno.ENXIO) return undefined;
      return checked("lseek", found);
    },
    seekHole: (fd, offset) => checked("lseek", seek(fd, offset, SEEK_HOLE)),
    seekEnd: (fd) => checked("lseek", seek(fd, 0, SEEK_END)),
  };
}

function checked(call: string, result: number): number {
  if (result < 0) throw new SystemCallError(call, -result);
  return result;
}
