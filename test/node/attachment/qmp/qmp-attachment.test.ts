import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { QmpAttachment } from "../../../../node/attachment/qmp/qmp-attachment.ts";
import { BLOCK_SIZE_BYTES, blockCountOf } from "../../../../protocol/units.ts";
import { attachmentContract, readBlock, VBD_BYTES } from "../../../contract/attachment.contract.ts";
import { Random } from "../../../storage/random.ts";
import { hasQemu } from "../../qmp/qemu.ts";
import { QemuStage, qemuGuest } from "./qemu-stage.ts";

if (hasQemu) {
  attachmentContract("qmp", async (incoming) => {
    const stage = new QemuStage();
    await stage.folder.begin(incoming);
    let attachment = await QmpAttachment.open(stage.options(incoming));
    await stage.startQemu();
    await attachment.endWindow();
    expect(attachment.isNative).toBe(incoming === undefined);
    return {
      attachment,
      guest: qemuGuest(stage),
      reopen: async () => {
        await attachment.close();
        attachment = await QmpAttachment.open(stage.options());
        await attachment.endWindow();
        expect(attachment.isNative).toBe(true);
        return attachment;
      },
      remove: async () => {
        await attachment.close();
        await stage.remove();
      },
    };
  });
}

/** Loop devices need root and a kernel that has them. */
const hasLoopDevices = spawnSync("losetup", ["--find"]).status === 0;

test.skipIf(!hasQemu || !hasLoopDevices)(
  "a vbd on a block device is pivoted and tracked as one on a file",
  async () => {
    const stage = new QemuStage();
    let attachment: QmpAttachment | undefined;
    try {
      await stage.folder.begin();
      stage.folder.useDevices();
      attachment = await QmpAttachment.open(stage.options());
      await stage.startQemu();
      await attachment.endWindow();
      expect(attachment.isNative).toBe(true);
      await stage.io(0, "write -P 7 4096 4096");
      await attachment.beginWindow();
      await stage.io(1, "write -P 8 8192 4096");
      expect(attachment.startRounds().map(({ written }) => [...written])).toEqual([[1], [2]]);
      expect(await readBlock(attachment, 0, 1)).toEqual(Buffer.alloc(BLOCK_SIZE_BYTES, 7));
      attachment.stopRounds();
      await attachment.endWindow();
      expect(attachment.isNative).toBe(true);
      await stage.io(1, "read -P 8 8192 4096");
    } finally {
      await attachment?.close();
      await stage.remove();
    }
  },
);

describe.skipIf(!hasQemu)("a vbd that QEMU has on its native path", () => {
  let stage: QemuStage;
  let attachment: QmpAttachment;

  beforeEach(async () => {
    stage = new QemuStage();
    await stage.folder.begin();
    attachment = await QmpAttachment.open(stage.options());
    await stage.startQemu();
    await attachment.endWindow();
  });
  afterEach(async () => {
    await attachment.close();
    await stage.remove();
  });

  /** Completes when the attachment has noticed that QEMU is gone. */
  async function noticed(): Promise<void> {
    await stage.qemu!.kill();
    await attachment.beginWindow();
  }

  test("has none of its I/O go through us, and all of it in a window", async () => {
    expect(stage.folder.server.connectionCount).toBe(0);
    expect(stage.folder.exports.names()).toEqual([]);
    await stage.io(0, "write -P 1 0 4096");
    await attachment.beginWindow();
    expect(stage.folder.server.connectionCount).toBe(2);
    await attachment.endWindow();
    expect(stage.folder.server.connectionCount).toBe(0);
  });

  test("is not trusted after QEMU was killed, neither in this process nor after its restart", async () => {
    await stage.io(0, "write -P 1 0 4096");
    await noticed();
    for (const { written, untrusted } of attachment.startRounds()) {
      expect(untrusted).toMatch(/only sojourn-3-\w+ knew of the last writes, and it is gone/);
      expect(written.population).toBe(blockCountOf(VBD_BYTES));
    }
    await attachment.close();
    attachment = await QmpAttachment.open(stage.options());
    expect(attachment.startRounds()[0]?.untrusted).toBeDefined();
  });

  test("is not trusted when QEMU died while the daemon was away", async () => {
    await stage.io(1, "write -P 1 0 4096");
    await attachment.close();
    await stage.qemu!.kill();
    attachment = await QmpAttachment.open(stage.options());
    expect(attachment.startRounds().map(({ untrusted }) => untrusted === undefined)).toEqual([false, false]);
  });

  test("is trusted after a kill of QEMU in a window, and starts again on our exports", async () => {
    await stage.io(0, "write -P 1 4096 4096");
    await attachment.beginWindow();
    await stage.io(0, "write -P 1 8192 4096");
    await stage.qemu!.kill();
    await stage.startQemu();
    await attachment.endWindow();
    expect(attachment.isNative).toBe(true);
    await stage.io(0, "write -P 1 12288 4096");
    await attachment.beginWindow();
    const [first] = attachment.startRounds();
    expect(first?.untrusted).toBeUndefined();
    expect([...first!.written]).toEqual([1, 2, 3]);
  });

  test("is not trusted when somebody else's QEMU had it before, and is tracked from then on", async () => {
    await attachment.beginWindow();
    await attachment.close();
    await stage.qemu!.kill();
    await stage.startQemu({ native: true });
    await stage.io(0, "write -P 1 0 4096");
    attachment = await QmpAttachment.open(stage.options());
    await attachment.endWindow();
    await attachment.beginWindow();
    expect(attachment.startRounds()[0]?.untrusted).toMatch(/nothing tracked it/);
    await stage.io(0, "write -P 1 8192 4096");
    expect([...attachment.takeRound()[0]!]).toEqual([2]);
  });

  test("is not trusted when somebody removed QEMU's bitmap", async () => {
    await stage.io(0, "write -P 1 0 4096");
    const lease = await stage.connections.acquire(stage.qmpPath);
    const nodes = await lease.client.execute("query-named-block-nodes", { flat: true });
    const name = nodes.find((node) => node["node-name"] === "vbd0")!["dirty-bitmaps"]![0]!.name!;
    await lease.client.execute("block-dirty-bitmap-remove", { node: "vbd0", name });
    lease.release();
    await attachment.harvest();
    await attachment.beginWindow();
    expect(attachment.startRounds()[0]?.untrusted).toMatch(/bitmap was removed or disabled/);
  });

  test("is not trusted when somebody uses QEMU's NBD server, whose exports stay", async () => {
    const { client, release } = await stage.connections.acquire(stage.qmpPath);
    const addr = { type: "unix", data: { path: `${stage.qemus.path}/other` } } as const;
    await client.execute("nbd-server-start", { addr });
    await client.execute("blockdev-add", { driver: "null-co", "node-name": "other", size: 4096 });
    await client.execute("block-export-add", {
      type: "nbd",
      id: "other",
      "node-name": "other",
      name: "other",
    });
    await attachment.beginWindow();
    expect(attachment.startRounds()[0]?.untrusted).toMatch(/NBD server already running/);
    expect((await client.execute("query-block-exports")).map(({ id }) => id)).toEqual(["other"]);
    release();
    await stage.io(0, "write -P 1 0 4096");
    expect([...attachment.takeRound()[0]!]).toEqual([0]);
  });

  test("is harvested though an earlier process was killed in the middle of a harvest", async () => {
    const { client, release } = await stage.connections.acquire(stage.qmpPath);
    const addr = { type: "unix", data: { path: `${stage.qemus.path}/left` } } as const;
    await client.execute("nbd-server-start", { addr });
    await client.execute("blockdev-add", { driver: "null-co", "node-name": "left", size: 4096 });
    await client.execute("block-export-add", {
      type: "nbd",
      id: "sojourn-left",
      "node-name": "left",
      name: "left",
    });
    release();
    await stage.io(0, "write -P 1 0 4096");
    await attachment.harvest();
    expect(attachment.written().map((bitmap) => [...bitmap])).toEqual([[0], []]);
  });

  test("is harvested when the guest powers off, before QEMU ends", async () => {
    await stage.io(0, "write -P 1 0 4096");
    const { client, release } = await stage.connections.acquire(stage.qmpPath);
    await client.execute("set-action", { shutdown: "pause" });
    let isDown = false;
    void client.nextEvent("SHUTDOWN").then(() => {
      isDown = true;
    });
    await client.execute("cont");
    // The chip set's power register, which is there once the firmware has put it there.
    while (!isDown) await client.execute("human-monitor-command", { "command-line": "o /w 0x604 0x2000" });
    // In its turn: after what the event has set off.
    await attachment.harvest();
    expect(attachment.isNative).toBe(false);
    release();
    await stage.qemu!.kill();
    const [first] = attachment.startRounds();
    expect(first?.untrusted).toBeUndefined();
    expect([...first!.written]).toEqual([0]);
  });

  test("shows as written what was harvested, and goes on recording", async () => {
    await stage.io(0, "write -P 1 0 4096");
    expect(attachment.written()[0]?.population).toBe(0);
    await attachment.harvest();
    expect(attachment.written().map((bitmap) => [...bitmap])).toEqual([[0], []]);
    await stage.io(0, "write -P 1 4096 4096");
    await attachment.harvest();
    expect([...attachment.written()[0]!]).toEqual([0, 1]);
    await stage.io(0, "write -P 1 8192 4096");
    await attachment.beginWindow();
    expect([...attachment.startRounds()[0]!.written]).toEqual([0, 1, 2]);
  });

  test("that was resized cannot be migrated, and says its sizes", async () => {
    const lease = await stage.connections.acquire(stage.qmpPath);
    await lease.client.execute("block_resize", { "node-name": "vbd1", size: 2 * VBD_BYTES });
    lease.release();
    await expect(attachment.beginWindow()).rejects.toMatchObject({
      code: "VBD_RESIZED",
      message: expect.stringContaining(String(2 * VBD_BYTES)),
    });
    expect(attachment.isNative).toBe(true);
    await stage.io(0, "write -P 1 0 4096");
  });

  test("that another process has open stays in its window, tracked and served, and says so", async () => {
    await attachment.beginWindow();
    const { path } = stage.folder.vbds[1]!;
    const holder = spawn("qemu-io", ["-f", "raw", path], { stdio: ["pipe", "pipe", "ignore"] });
    await once(holder.stdout, "data");
    try {
      await expect(attachment.endWindow()).rejects.toMatchObject({
        code: "VBD_BUSY",
        message: expect.stringContaining("lock"),
      });
      expect(attachment.isNative).toBe(false);
      await stage.io(0, "write -P 1 0 4096");
      await stage.io(1, "write -P 1 4096 4096");
    } finally {
      holder.stdin.end("quit\n");
      await once(holder, "exit");
    }
    await attachment.endWindow();
    expect(attachment.isNative).toBe(true);
    await attachment.beginWindow();
    const rounds = attachment.startRounds();
    expect(rounds.map(({ written, untrusted }) => [[...written], untrusted])).toEqual([
      [[0], undefined],
      [[1], undefined],
    ]);
  });

  test("is found by the next daemon after this one was killed, native or in a window", async () => {
    for (const inWindow of [false, true]) {
      const block = inWindow ? 2 : 1;
      await stage.io(0, `write -P 9 ${block * BLOCK_SIZE_BYTES} 4096`);
      if (inWindow) await attachment.beginWindow();
      attachment = await stage.restartDaemon();
      await attachment.endWindow();
      expect(attachment.isNative).toBe(true);
    }
    await attachment.beginWindow();
    const [first] = attachment.startRounds();
    expect(first?.untrusted).toBeUndefined();
    expect([...first!.written]).toEqual([1, 2]);
  });

  test.each(["beginWindow", "endWindow", "harvest"] as const)(
    "loses nothing and is trusted when the daemon is killed at any of its commands to QEMU in %s",
    async (operation) => {
      const expected: number[] = [];
      const write = async (): Promise<void> => {
        expected.push(expected.length);
        await stage.io(0, `write -P 5 ${expected.at(-1)! * BLOCK_SIZE_BYTES} 4096`);
      };
      let hasDied = true;
      for (let commands = 1; hasDied; commands++) {
        await (operation === "endWindow" ? attachment.beginWindow() : attachment.endWindow());
        await write();
        const died = stage.dieAfter(commands).then(() => true);
        hasDied = await Promise.race([died, attachment[operation]().then(() => false)]);
        await write();
        attachment = await stage.restartDaemon();
        await write();
        await attachment.endWindow();
        await write();
        expect(attachment.isNative).toBe(true);
        // More than this and the loop is one that nothing ends.
        expect(commands).toBeLessThan(60);
      }
      await attachment.beginWindow();
      const [first, second] = attachment.startRounds();
      expect(first?.untrusted).toBeUndefined();
      expect([...first!.written]).toEqual(expected);
      expect([...second!.written]).toEqual([]);
      for (const block of expected) {
        expect((await readBlock(attachment, 0, block)).equals(Buffer.alloc(BLOCK_SIZE_BYTES, 5))).toBe(true);
      }
    },
  );

  test.each(["beginWindow", "endWindow", "harvest"] as const)(
    "calls every write written when QEMU and the daemon are killed at any command in %s, or says that it cannot tell",
    async (operation) => {
      let hasDied = true;
      let block = 0;
      for (let commands = 1; hasDied; commands++) {
        await (operation === "endWindow" ? attachment.beginWindow() : attachment.endWindow());
        await stage.io(0, `write -P 5 ${++block * BLOCK_SIZE_BYTES} 4096`);
        const died = stage.dieAfter(commands).then(() => true);
        hasDied = await Promise.race([died, attachment[operation]().then(() => false)]);
        await stage.io(0, `write -P 5 ${++block * BLOCK_SIZE_BYTES} 4096`);
        await stage.qemu!.kill();
        attachment = await stage.restartDaemon();
        const [first] = attachment.startRounds();
        for (const each of [block - 1, block]) expect(first?.written.has(each), `${commands}`).toBe(true);
        if (first?.untrusted === undefined)
          expect(first?.written.population).toBeLessThan(blockCountOf(VBD_BYTES));
        attachment.stopRounds();
        await attachment.close();
        await stage.beginGeneration();
        attachment = await QmpAttachment.open(stage.options());
        await stage.startQemu();
        expect(commands).toBeLessThan(60);
      }
    },
  );

  const PIVOTS = Number(process.env.PIVOTS ?? 60);
  test(`loses nothing over ${PIVOTS} pivots with writes in flight`, async () => {
    const seed = Number(process.env.SEED ?? Date.now() % 1e6);
    const random = new Random(seed);
    const blocks = blockCountOf(VBD_BYTES);
    const contents = stage.folder.vbds.map(() => new Uint8Array(blocks));
    for (let pivot = 0; pivot < PIVOTS; pivot++) {
      const byte = 1 + (pivot % 255);
      for (let write = 0; write < 6; write++) {
        const [vbd, block] = [random.below(2), random.below(blocks)];
        await stage.submit(vbd, `aio_write -q -P ${byte} ${block * BLOCK_SIZE_BYTES} 4096`);
        contents[vbd]![block] = byte;
      }
      await (attachment.isNative ? attachment.beginWindow() : attachment.endWindow());
      expect(attachment.isNative, `seed ${seed}`).toBe(pivot % 2 === 1);
    }
    await attachment.beginWindow();
    const written = attachment.startRounds().map((vbd) => [...vbd.written]);
    for (const [vbd, bytes] of contents.entries()) {
      const expected = [...bytes.entries()].filter(([, byte]) => byte !== 0).map(([block]) => block);
      expect(written[vbd], `seed ${seed}`).toEqual(expected);
      for (const block of expected) {
        const found = await readBlock(attachment, vbd, block);
        expect(found.equals(Buffer.alloc(BLOCK_SIZE_BYTES, bytes[block])), `seed ${seed}, ${block}`).toBe(
          true,
        );
      }
    }
    expect(stage.warnings).toEqual([]);
  });
});
