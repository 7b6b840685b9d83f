/**
 * What every attachment promises a migration, whatever is between the guest and its disk. A window is open wherever a
 * test migrates, as the driver opens one.
 */

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Attachment } from "../../node/attachment/attachment.ts";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../../protocol/units.ts";

export const VBD_BYTES = 4 << 20;
export const VBD_COUNT = 2;
const BLOCKS = blockCountOf(VBD_BYTES);

/** The guest's side of a vbd. Every operation is acknowledged when it completes. */
export type Guest = {
  /** Fills the range with `byte`. Rejects when the guest is told of an error. */
  write(vbd: number, offset: number, length: number, byte: number): Promise<void>;
  zero(vbd: number, offset: number, length: number): Promise<void>;
  discard(vbd: number, offset: number, length: number): Promise<void>;
  /** Whether the range is all `byte`. */
  holds(vbd: number, offset: number, length: number, byte: number): Promise<boolean>;
};

export type Incoming = {
  missing: readonly BlockBitmap[];
  pull(vbd: number, runs: readonly { start: number; count: number }[]): void;
  complete(): void;
};

export type AttachmentFixture = {
  attachment: Attachment;
  guest: Guest;
  /** Closes the attachment and opens the vbds anew, as a restart of the daemon does. */
  reopen(): Promise<Attachment>;
  remove(): Promise<void>;
};

export function attachmentContract(
  name: string,
  open: (incoming?: Incoming) => Promise<AttachmentFixture>,
): void {
  describe(`${name} attachment`, () => {
    let fixture: AttachmentFixture;
    let attachment: Attachment;
    let guest: Guest;

    async function begin(incoming?: Incoming): Promise<void> {
      fixture = await open(incoming);
      ({ attachment, guest } = fixture);
    }

    afterEach(() => fixture.remove());

    describe("of a domain that runs", () => {
      beforeEach(() => begin());

      test("knows exactly the blocks that the guest wrote, of each vbd, also by zeroes and by a trim", async () => {
        await guest.write(0, 3 * BLOCK_SIZE_BYTES, 2 * BLOCK_SIZE_BYTES, 0x11);
        await guest.write(0, 9 * BLOCK_SIZE_BYTES + 512, 512, 0x12);
        await guest.zero(1, 20 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES);
        await guest.discard(1, 30 * BLOCK_SIZE_BYTES, 2 * BLOCK_SIZE_BYTES);
        await attachment.beginWindow();
        const [first, second] = attachment.startRounds();
        expect(first?.untrusted).toBeUndefined();
        expect([...first!.written]).toEqual([3, 4, 9]);
        expect([...second!.written]).toEqual([20, 30, 31]);
        expect(attachment.written().map((bitmap) => [...bitmap])).toEqual([
          [3, 4, 9],
          [20, 30, 31],
        ]);
      });

      test("collects in rounds what is written in a window, and reads what the guest wrote", async () => {
        await guest.write(0, 0, BLOCK_SIZE_BYTES, 0x21);
        await attachment.beginWindow();
        attachment.startRounds();
        await guest.write(0, 7 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x22);
        await guest.write(1, 8 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x23);
        expect(attachment.takeRound().map((bitmap) => [...bitmap])).toEqual([[7], [8]]);
        await guest.write(0, 9 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x24);
        expect(attachment.takeRound().map((bitmap) => [...bitmap])).toEqual([[9], []]);
        for (const [block, byte] of [
          [0, 0x21],
          [7, 0x22],
          [9, 0x24],
        ] as const) {
          expect(await readBlock(attachment, 0, block)).toEqual(Buffer.alloc(BLOCK_SIZE_BYTES, byte));
        }
        attachment.stopRounds();
      });

      test("lets no write of the guest land after the fence, and accepts them again without it", async () => {
        await attachment.beginWindow();
        attachment.startRounds();
        await guest.write(0, 0, BLOCK_SIZE_BYTES, 0x31);
        attachment.takeRound();
        await guest.write(0, BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x32);
        const { dirty, written } = await attachment.fence();
        expect(dirty.map((bitmap) => [...bitmap])).toEqual([[1], []]);
        expect(written.map((bitmap) => [...bitmap])).toEqual([[0, 1], []]);
        await expect(guest.write(0, 0, BLOCK_SIZE_BYTES, 0x33)).rejects.toThrow();
        expect(await readBlock(attachment, 0, 0)).toEqual(Buffer.alloc(BLOCK_SIZE_BYTES, 0x31));
        attachment.unfence();
        await guest.write(0, 0, BLOCK_SIZE_BYTES, 0x34);
        expect(await readBlock(attachment, 0, 0)).toEqual(Buffer.alloc(BLOCK_SIZE_BYTES, 0x34));
      });

      test("can be migrated again after an attempt that was given up, and has lost no write between", async () => {
        await attachment.beginWindow();
        attachment.startRounds();
        await guest.write(0, 0, BLOCK_SIZE_BYTES, 0x41);
        attachment.stopRounds();
        await attachment.endWindow();
        await guest.write(0, BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x42);
        await attachment.beginWindow();
        await guest.write(0, 2 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x43);
        expect([...attachment.startRounds()[0]!.written]).toEqual([0, 1, 2]);
      });

      test("keeps what was written over a restart of the daemon, and trusts it", async () => {
        await guest.write(0, 5 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x51);
        attachment = await fixture.reopen();
        await guest.write(0, 6 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x52);
        await attachment.beginWindow();
        const [first, second] = attachment.startRounds();
        expect(first?.untrusted).toBeUndefined();
        expect([...first!.written]).toEqual([5, 6]);
        expect(second?.written.population).toBe(0);
      });

      test("has nothing missing, and drops what arrives", async () => {
        await guest.write(0, 0, BLOCK_SIZE_BYTES, 0x61);
        expect(attachment.missing().map(({ population }) => population)).toEqual([0, 0]);
        const data = new Uint8Array(BLOCK_SIZE_BYTES).fill(0x62);
        await attachment.arrive(0, { runs: [{ start: 0, count: 1 }], zeroes: [], data });
        expect(await guest.holds(0, 0, BLOCK_SIZE_BYTES, 0x61)).toBe(true);
      });
    });

    describe("in post-copy", () => {
      const completed = Promise.withResolvers<void>();

      test("pulls what the guest reads, lets its writes win, and is complete when nothing is missing", async () => {
        const missing = [BlockBitmap.of(BLOCKS, [1, 2, 3, 40]), BlockBitmap.of(BLOCKS, [5])];
        const pulled: string[] = [];
        const blockOf = (vbd: number, start: number) => ({
          runs: [{ start, count: 1 }],
          zeroes: [],
          data: new Uint8Array(BLOCK_SIZE_BYTES).fill(0x80 + vbd * 8 + (start % 8)),
        });
        await begin({
          missing,
          pull: (vbd, runs) => {
            for (const { start, count } of runs) {
              pulled.push(`${vbd}:${start}+${count}`);
              for (let block = start; block < start + count; block++) {
                setImmediate(() => void attachment.arrive(vbd, blockOf(vbd, block)));
              }
            }
          },
          complete: () => completed.resolve(),
        });
        expect(await guest.holds(0, BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x81)).toBe(true);
        expect(await guest.holds(1, 5 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x8d)).toBe(true);
        expect(pulled).toEqual(["0:1+1", "1:5+1"]);
        await guest.write(0, 2 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x71);
        await attachment.arrive(0, blockOf(0, 2));
        expect(await guest.holds(0, 2 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x71)).toBe(true);
        expect(attachment.missing().map((bitmap) => [...bitmap])).toEqual([[3, 40], []]);
        await attachment.arrive(0, blockOf(0, 3));
        await attachment.arrive(0, blockOf(0, 40));
        await completed.promise;
        expect(attachment.missing().map(({ population }) => population)).toEqual([0, 0]);
        await guest.write(1, 9 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x72);
        await attachment.endWindow();
        expect(attachment.counts()).toEqual({ pulled: 2, pushed: 2, superseded: 1, late: 1 });
        await guest.write(1, 10 * BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 0x73);
        await attachment.beginWindow();
        expect(attachment.startRounds().map(({ written }) => [...written])).toEqual([[2], [9, 10]]);
        expect(await readBlock(attachment, 0, 40)).toEqual(Buffer.alloc(BLOCK_SIZE_BYTES, 0x80));
      });
    });
  });
}

export async function readBlock(attachment: Attachment, vbd: number, block: number): Promise<Buffer> {
  const target = Buffer.alloc(BLOCK_SIZE_BYTES);
  await attachment.store(vbd).read(block * BLOCK_SIZE_BYTES, target);
  return target;
}
