/**
 * fio in the guest: this machine's own program and the libraries that it needs, as an addition to the guest's
 * initramfs, and what it measures there.
 */

import { execFile } from "node:child_process";
import { readFile, realpath, rename, writeFile } from "node:fs/promises";
import { delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { z } from "zod";
import type { GuestConsole } from "./guest-console.ts";
import { type ArchiveEntry, type GuestImage, MODE, newcArchive } from "./guest-image.ts";

/** Of reads and writes together; latencies from the request's submission to its end, as the guest's clock has them. */
export type FioFigures = { iops: number; bytesPerSecond: number; p50Us: number; p99Us: number };

/** Its libraries are 80 MB that the guest unpacks into its memory. */
export const FIO_MEMORY_BYTES = 384 << 20;

const run = promisify(execFile);

/** Made anew each time: the machine's fio may have changed. */
export async function withFio(image: GuestImage): Promise<GuestImage> {
  const entries = await fioEntries();
  const initrd = join(dirname(image.initrd), "initrd-fio.img");
  // The kernel unpacks one archive after the other.
  const addition = gzipSync(newcArchive(entries), { level: 1 });
  await writeFile(`${initrd}.new`, Buffer.concat([await readFile(image.initrd), addition]));
  await rename(`${initrd}.new`, initrd);
  return { ...image, initrd };
}

/** The device is read and written past the guest's page cache. Throws where fio reports an error. */
export async function runFio(console: GuestConsole, job: readonly string[]): Promise<FioFigures> {
  const args = ["--name=job", "--direct=1", "--ioengine=libaio", "--thread", "--unified_rw_reporting=1"];
  const answer = console.next(({ type }) => type === "fio");
  console.say(`fio ${[...args, ...job].join(" ")}`);
  const { status, result } = FioLine.parse(await answer);
  const [done] = result?.jobs ?? [];
  if (status !== 0 || done === undefined || done.error !== 0) {
    throw new Error(
      `fio in the guest ended with ${status}, its job with ${done?.error}: see the guest's console`,
    );
  }
  const { iops, bw_bytes: bytesPerSecond, clat_ns: latency } = done.mixed;
  const micros = (percentile: string): number => (latency.percentile?.[percentile] ?? Number.NaN) / 1000;
  return { iops, bytesPerSecond, p50Us: micros("50.000000"), p99Us: micros("99.000000") };
}

const FioJob = z.object({
  error: z.number(),
  mixed: z.object({
    iops: z.number(),
    bw_bytes: z.number(),
    clat_ns: z.object({ percentile: z.record(z.string(), z.number()).optional() }),
  }),
});
const FioLine = z.object({
  status: z.number(),
  result: z.object({ jobs: z.array(FioJob) }).optional(),
});

/** Where the machine has them: that is where the loader looks. */
async function fioEntries(): Promise<ArchiveEntry[]> {
  const fio = await fioPath();
  const { stdout } = await run("ldd", [fio]);
  const libraries = [...stdout.matchAll(/(\/\S+) \(0x/g)].map(([, path]) => path!);
  const files = [{ path: "bin/fio", from: fio }, ...libraries.map((from) => ({ path: from.slice(1), from }))];
  const folders = new Set(files.flatMap(({ path }) => foldersOf(path)));
  return [
    ...[...folders].toSorted().map((path) => ({ path, mode: MODE.folder, data: Buffer.alloc(0) })),
    ...(await Promise.all(
      files.map(async ({ path, from }) => ({ path, mode: MODE.executable, data: await readFile(from) })),
    )),
  ];
}

async function fioPath(): Promise<string> {
  for (const folder of (process.env.PATH ?? "").split(delimiter)) {
    const path = await realpath(join(folder, "fio")).catch(() => undefined);
    if (path !== undefined) return path;
  }
  throw new Error("fio is needed: apt-get install fio");
}

/** `a`, `a/b` of `a/b/c`. */
function foldersOf(path: string): string[] {
  const parts = path.split("/").slice(0, -1);
  return parts.map((_, index) => parts.slice(0, index + 1).join("/"));
}
