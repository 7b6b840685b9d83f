import { describe, expect, it } from "vitest";
import { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { BlockSender, type Shipment } from "../../protocol/block-sender.ts";

function senderOf(blocks: readonly number[], hotSendsMax = 2): BlockSender {
  const sender = new BlockSender([16, 16], { hotSendsMax });
  sender.toSend[0]!.union(BlockBitmap.of(16, blocks));
  return sender;
}

function blocksOf(shipments: readonly Shipment[]): number[] {
  return shipments.flatMap(({ runs }) =>
    runs.flatMap(({ start, count }) => Array.from({ length: count }, (_, index) => start + index)),
  );
}

describe("block sender", () => {
  it("hands every block out once, in order", () => {
    const sender = senderOf([1, 2, 3, 9]);
    expect(blocksOf(sender.take(100))).toEqual([1, 2, 3, 9]);
    expect(sender.take(100)).toEqual([]);
    expect(sender.remainingBlocks).toBe(0);
  });

  it("keeps at most as many blocks on their way as it is told", () => {
    const sender = senderOf([1, 2, 3, 9]);
    const [shipment] = sender.take(3);
    expect(shipment?.runs).toEqual([{ start: 1, count: 3 }]);
    expect(sender.take(3)).toEqual([]);
    expect(sender.acknowledge(shipment!.ticket)).toBe(true);
    expect(blocksOf(sender.take(3))).toEqual([9]);
  });

  it("acknowledges a ticket once", () => {
    const sender = senderOf([1]);
    const [shipment] = sender.take(1);
    expect(sender.acknowledge(shipment!.ticket)).toBe(true);
    expect(sender.acknowledge(shipment!.ticket)).toBe(false);
    expect(sender.isIdle).toBe(true);
  });

  it("serves every vbd", () => {
    const sender = senderOf([15]);
    sender.toSend[1]!.add(0);
    expect(sender.take(100).map(({ vbd }) => vbd)).toEqual([0, 1]);
  });

  it("sends what somebody waits for first, beyond the allowance", () => {
    const sender = senderOf([1, 2, 3, 9]);
    sender.take(2);
    sender.hurry(0, [{ start: 9, count: 1 }]);
    const [urgent] = sender.take(2);
    expect(urgent).toMatchObject({ urgent: true, runs: [{ start: 9, count: 1 }] });
  });

  it("does not hurry what is on its way", () => {
    const sender = senderOf([1]);
    sender.take(2);
    sender.hurry(0, [{ start: 1, count: 1 }]);
    expect(sender.take(2)).toEqual([]);
  });

  it("goes on beside what somebody waited for", () => {
    const sender = senderOf([1, 2, 8, 9, 10]);
    sender.hurry(0, [{ start: 8, count: 1 }]);
    expect(blocksOf(sender.take(3))).toEqual([8, 9, 10]);
  });

  it("holds a block back while an older copy of it is on its way", () => {
    const sender = senderOf([1, 2, 3]);
    const [shipment] = sender.take(100);
    sender.add([BlockBitmap.of(16, [2, 4]), new BlockBitmap(16)]);
    expect(blocksOf(sender.take(100))).toEqual([4]);
    sender.acknowledge(shipment!.ticket);
    expect(blocksOf(sender.take(100))).toEqual([2]);
  });

  it("takes back what was not acknowledged, as if it had never been sent", () => {
    const sender = senderOf([1, 2]);
    const [first] = sender.take(1);
    sender.acknowledge(first!.ticket);
    sender.take(1);
    sender.takeBack();
    expect(sender.distinctBlocks).toBe(1);
    expect(blocksOf(sender.take(10))).toEqual([2]);
    expect(sender.resentBlocks).toBe(0);
  });

  it("counts a block as sent as often as it was before a lost link took its last copy back", () => {
    const sender = senderOf([1], 2);
    const [first] = sender.take(1);
    sender.acknowledge(first!.ticket);
    sender.toSend[0]!.add(1);
    sender.take(1);
    sender.takeBack();
    expect(sender.distinctBlocks).toBe(1);
    const dirty = [BlockBitmap.of(16, [1]), new BlockBitmap(16)];
    expect(sender.hot(dirty)[0]!.population).toBe(0);
  });

  it("calls a block hot that was sent too often", () => {
    const sender = senderOf([1], 2);
    const dirty = [BlockBitmap.of(16, [1, 2]), new BlockBitmap(16)];
    for (let times = 1; times <= 2; times++) {
      expect([...sender.hot(dirty)[0]!]).toEqual([]);
      sender.toSend[0]!.add(1);
      for (const { ticket } of sender.take(1)) sender.acknowledge(ticket);
    }
    expect([...sender.hot(dirty)[0]!]).toEqual([1]);
    expect(sender.resentBlocks).toBe(1);
  });

  it("starts over with what the destination misses", () => {
    const sender = senderOf([1, 2, 3]);
    sender.take(2);
    sender.hurry(0, [{ start: 3, count: 1 }]);
    sender.restart([BlockBitmap.of(16, [2, 3]), new BlockBitmap(16)]);
    const shipments = sender.take(100);
    expect(blocksOf(shipments).sort()).toEqual([2, 3]);
    expect(shipments.every(({ urgent }) => !urgent)).toBe(true);
  });
});
