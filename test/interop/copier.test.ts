/** fio writes and verifies through an export while a migration's rounds read the same vbd: no write is missed. */
import { execFile, spawnSync } from "node:child_process";
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it, onTestFinished } from "vitest";
import { CopyAttachment } from "../../node/attachment/copy-attachment.ts";
import { NbdAttachment } from "../../node/attachment/nbd-attachment.ts";
import { readBlocks } from "../../node/migration/block-reader.ts";
import type { BlockBitmap } from "../../protocol/block-bitmap.ts";
import { blockCountOf } from "../../protocol/units.ts";
import { FdByteFile } from "../../storage/byte-file.ts";
import { DirtyLog } from "../../storage/dirty-log.ts";
import { ExportRegistry } from "../../storage/nbd/export-registry.ts";
import { serve, temporaryDirectory } from "../storage/nbd/fixtures.ts";

const SIZE_BYTES = 32 << 20;
const BLOCKS_PER_MESSAGE = 256;
const LOOPS = 3;

const hasFio = (() => {
  const { stdout, error } = spawnSync("fio", ["--enghelp"], { encoding: "utf8" });
  return error === undefined && /\bnbd\b/.test(stdout);
})();

async function sparseFile(path: string): Promise<{ path: string; sizeBytes: number }> {
  const file = await open(path, "w");
  await file.truncate(SIZE_BYTES);
  await file.close();
  return { path, sizeBytes: SIZE_BYTES };
}

/** Rewrites all of the vbd several times at random, reads back and compares checksums after every pass. */
function fio(
  uri: string,
  directory: string,
): Promise<{ jobs: { error: number; write: { io_bytes: number } }[] }> {
  const options = {
    name: "verify",
    ioengine: "nbd",
    uri,
    rw: "randwrite",
    size: String(SIZE_BYTES),
    bsrange: "1k-128k",
    iodepth: "8",
    loops: String(LOOPS),
    verify: "crc32c",
    do_verify: "1",
    verify_fatal: "1",
    verify_state_save: "0",
    randseed: "5",
    "output-format": "json",
  };
  const list = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
  const ended = promisify(execFile)("fio", list, { maxBuffer: 16 << 20, cwd: directory });
  return ended.then(({ stdout }) => JSON.parse(stdout.slice(stdout.indexOf("{"))));
}

const name = "every round and the fenced remains together are the vbd, and fio reads what it wrote";
if (!hasFio) it.skip(`${name} (skipped: fio with its nbd engine not found)`, () => {});
else
  it(name, async () => {
    const directory = await temporaryDirectory();
    const vbd = await sparseFile(join(directory, "vbd"));
    const copy = await sparseFile(join(directory, "copy"));
    const exports = new ExportRegistry();
    const dirtyLogPath = join(directory, "dirty");
    const identity = { generation: 1, bootId: "boot-1" };
    const log = await DirtyLog.create(FdByteFile.create(dirtyLogPath), {
      ...identity,
      blockCount: blockCountOf(SIZE_BYTES),
    });
    await log.close({ clean: true });
    const attachment = await NbdAttachment.open({
      vbds: [
        {
          ...vbd,
          name: "root",
          exportName: "root-1",
          dirtyLogPath,
          presenceLogPath: join(directory, "presence"),
        },
      ],
      ...identity,
      exports,
    });
    onTestFinished(() => attachment.close());
    const copies = CopyAttachment.open([copy]);
    onTestFinished(() => copies.close());
    const { address } = await serve([], {}, exports);

    attachment.startRounds();
    let isWriting = true;
    const { unixPath } = address as { unixPath: string };
    const written = fio(`nbd+unix:///root-1?socket=${unixPath}`, directory).finally(() => {
      isWriting = false;
    });
    let rounds = 0;
    let blocksCopied = 0;
    const copyRound = async (round: BlockBitmap): Promise<void> => {
      for (let run = round.nextRun(0, BLOCKS_PER_MESSAGE); run !== undefined; ) {
        const request = { ticket: 1, purpose: "precopy" as const, vbd: 0, runs: [run] };
        await copies.arrive(0, await readBlocks(attachment.store(0), request));
        blocksCopied += run.count;
        run = round.nextRun(run.start + run.count, BLOCKS_PER_MESSAGE);
      }
      rounds += 1;
    };
    while (isWriting) {
      await copyRound(attachment.takeRound()[0]!);
      await new Promise((resolve) => setImmediate(resolve));
    }
    const { jobs } = await written;
    await copyRound((await attachment.fence()).dirty[0]!);
    await copies.flush();

    expect(jobs[0]).toMatchObject({ error: 0 });
    expect(jobs[0]!.write.io_bytes).toBeGreaterThanOrEqual(LOOPS * SIZE_BYTES);
    expect(rounds).toBeGreaterThan(2);
    expect(blocksCopied * 4096).toBeGreaterThanOrEqual(SIZE_BYTES);
    expect((await readFile(copy.path)).equals(await readFile(vbd.path))).toBe(true);
  });
