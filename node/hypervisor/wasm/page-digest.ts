/**
 * A digest of a whole memory that is cheap to keep while pages change: SHA-256 over the hashes of its pages.
 * One that hashed the memory itself would cost its whole length inside the downtime.
 */

import { createHash, hash } from "node:crypto";
import { PAGE_BYTES } from "./layout.ts";

/** 128 bits of a page's SHA-256: against damage and mistakes; against forgers the transport is sealed. */
const LEAF_BYTES = 16;

export const DIGEST_BYTES = 32;

export class PageDigest {
  readonly #memory: Buffer;
  readonly #leaves: Buffer;
  readonly #stale = new Set<number>();

  /** Of a memory that is all zero yet. */
  constructor(memory: Buffer) {
    this.#memory = memory;
    const zeroLeaf = hash("sha256", Buffer.alloc(PAGE_BYTES), "buffer").subarray(0, LEAF_BYTES);
    this.#leaves = Buffer.alloc((memory.length / PAGE_BYTES) * LEAF_BYTES, zeroLeaf);
  }

  /** The page changed, and is hashed by the next `settle` or `digest`. */
  touch(page: number): void {
    this.#stale.add(page);
  }

  /** Hashes up to `pagesMax` changed pages, so that `digest` need not. False: there are more. */
  settle(pagesMax: number): boolean {
    for (const page of this.#stale) {
      if (pagesMax-- <= 0) return false;
      const bytes = this.#memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
      this.#leaves.set(hash("sha256", bytes, "buffer").subarray(0, LEAF_BYTES), page * LEAF_BYTES);
      this.#stale.delete(page);
    }
    return true;
  }

  digest(): Buffer {
    this.settle(Number.POSITIVE_INFINITY);
    const size = Buffer.alloc(8);
    size.writeBigUInt64BE(BigInt(this.#memory.length));
    return createHash("sha256").update(size).update(this.#leaves).digest();
  }
}
