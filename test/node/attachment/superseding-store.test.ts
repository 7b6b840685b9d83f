import { expect, test } from "vitest";
import { SupersedingStore } from "../../../node/attachment/superseding-store.ts";
import { BlockBitmap } from "../../../protocol/block-bitmap.ts";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../../../protocol/units.ts";
import { MemoryBlockStore } from "../../../storage/memory-block-store.ts";
import { MissingBlockStore } from "../../../storage/missing-block-store.ts";
import { PresenceLog } from "../../../storage/presence-log.ts";
import { blockStoreContract } from "../../contract/block-store.contract.ts";
import { CrashingByteFile } from "../../storage/crashing-byte-file.ts";
import { Random } from "../../storage/random.ts";

const IDENTITY = { generation: 2, migration: "m-1", bootId: "boot-1" };
const BLOCK = new Uint8Array(BLOCK_SIZE_BYTES).fill(7);

async function missingStore(inner: MemoryBlockStore, missing: BlockBitmap): Promise<MissingBlockStore> {
  const presence = await PresenceLog.create(new CrashingByteFile(new Random(1)), { ...IDENTITY, missing });
  const store: MissingBlockStore = new MissingBlockStore({
    store: inner,
    presence,
    pull: (runs) =>
      setImmediate(() => void (async () => store.arrive([], runs, new Uint8Array(0)))().catch(() => {})),
  });
  return store;
}

blockStoreContract("superseding", async ({ sizeBytes }) => {
  const inner = new MemoryBlockStore({ sizeBytes });
  const missing = await missingStore(inner, BlockBitmap.full(blockCountOf(sizeBytes)));
  return new SupersedingStore(missing, () => new Promise((resolve) => setImmediate(resolve)));
});

test("only a write over a missing block reaches the point, once per write, after it was issued", async () => {
  const missing = BlockBitmap.of(8, [2, 3]);
  const inner = new MemoryBlockStore({ sizeBytes: 8 * BLOCK_SIZE_BYTES });
  const store = await missingStore(inner, missing);
  const landed: boolean[] = [];
  const superseding = new SupersedingStore(store, () => {
    const target = new Uint8Array(1);
    void inner.read(2 * BLOCK_SIZE_BYTES, target);
    landed.push(target[0] === 7);
    return undefined;
  });
  await superseding.write(0, BLOCK);
  await superseding.read(0, new Uint8Array(BLOCK_SIZE_BYTES));
  expect(landed).toEqual([]);
  await superseding.write(2 * BLOCK_SIZE_BYTES, BLOCK);
  expect(landed).toEqual([true]);
  await superseding.write(2 * BLOCK_SIZE_BYTES, BLOCK);
  expect(landed).toEqual([true]);
  await superseding.writeZeroes(2 * BLOCK_SIZE_BYTES, 2 * BLOCK_SIZE_BYTES, { mayUnmap: true });
  expect(landed).toHaveLength(2);
});

test("a write is not acknowledged before its point has completed", async () => {
  const inner = new MemoryBlockStore({ sizeBytes: 8 * BLOCK_SIZE_BYTES });
  const point = Promise.withResolvers<void>();
  const superseding = new SupersedingStore(
    await missingStore(inner, BlockBitmap.full(8)),
    () => point.promise,
  );
  let isAcknowledged = false;
  const written = Promise.resolve(superseding.write(0, BLOCK)).then(() => {
    isAcknowledged = true;
  });
  await new Promise((resolve) => setImmediate(resolve));
  expect(isAcknowledged).toBe(false);
  point.resolve();
  await written;
  expect(isAcknowledged).toBe(true);
});
