/** Our server against the clients that others wrote. A test whose client is not installed is skipped by its name. */
import { execFile, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { FileBlockStore } from "../../storage/file-block-store.ts";
import type { NbdExport } from "../../storage/nbd/export-registry.ts";
import { generationContextName } from "../../storage/nbd/metadata-contexts.ts";
import { exportOf, serve, temporaryDirectory } from "../storage/nbd/fixtures.ts";

const MIB = 1 << 20;
const SIZE_BYTES = 64 * MIB;
const run = promisify(execFile);

function has(tool: string): boolean {
  return spawnSync(tool, ["--version"]).error === undefined;
}

function hasFioEngine(): boolean {
  const { stdout, error } = spawnSync("fio", ["--enghelp"], { encoding: "utf8" });
  return error === undefined && /\bnbd\b/.test(stdout);
}

/** A test that needs these programs. */
function itWith(tools: readonly string[], name: string, body: () => Promise<void>): void {
  const missing = tools.filter((tool) => !has(tool));
  if (missing.length > 0) it.skip(`${name} (skipped: ${missing.join(", ")} not found)`, () => {});
  else it(name, body);
}

async function output(command: string, ...args: string[]): Promise<string> {
  const { stdout } = await run(command, args, { maxBuffer: 64 << 20 });
  return stdout;
}

let directory: string;
let path: string;
let uri: string;

async function serveDisk(fields: Partial<NbdExport> = {}): Promise<void> {
  const store = FileBlockStore.open(path);
  onTestFinished(() => store.close());
  const { address } = await serve([exportOf(store, { description: "a disk", ...fields })]);
  uri = `nbd+unix:///disk?socket=${(address as { unixPath: string }).unixPath}`;
}

beforeEach(async () => {
  directory = await temporaryDirectory();
  path = join(directory, "disk.img");
  await FileBlockStore.create(path, { sizeBytes: SIZE_BYTES }).close();
});

describe("nbdinfo", () => {
  itWith(["nbdinfo"], "reads what the export can", async () => {
    await serveDisk();
    const { exports, protocol } = JSON.parse(await output("nbdinfo", "--json", uri));
    expect(protocol).toBe("newstyle-fixed");
    expect(exports[0]).toMatchObject({
      "export-name": "disk",
      "export-size": SIZE_BYTES,
      is_read_only: false,
      can_multi_conn: true,
      can_fua: true,
      can_df: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MIB,
      contexts: ["base:allocation"],
    });
  });

  itWith(["nbdinfo"], "lists what is listed and nothing else", async () => {
    const store = FileBlockStore.open(path);
    onTestFinished(() => store.close());
    const shown = exportOf(store, { name: "shown", listed: true });
    const { address } = await serve([exportOf(store, { name: "hidden" }), shown]);
    const socket = (address as { unixPath: string }).unixPath;
    const listing = await output("nbdinfo", "--list", `nbd+unix:///?socket=${socket}`);
    expect(listing).toContain('export="shown"');
    expect(listing).not.toContain("hidden");
  });

  itWith(["nbdinfo"], "maps holes", async () => {
    const store = FileBlockStore.open(path);
    store.write(8 * MIB, Buffer.alloc(MIB, 1));
    await store.close();
    await serveDisk();
    expect(JSON.parse(await output("nbdinfo", "--map", "--json", uri))).toMatchObject([
      { offset: 0, length: 8 * MIB, type: 3 },
      { offset: 8 * MIB, length: MIB, type: 0 },
      { offset: 9 * MIB, length: SIZE_BYTES - 9 * MIB, type: 3 },
    ]);
  });

  itWith(["nbdinfo"], "maps what was written since a generation", async () => {
    const name = generationContextName(4);
    const written = (offset: number) => (Math.floor(offset / MIB) % 2 === 0 ? 1 : 0);
    function* extentsOf(offset: number, length: number) {
      const end = offset + length;
      while (offset < end) {
        const next = Math.min(end, (Math.floor(offset / MIB) + 1) * MIB);
        yield { length: next - offset, flags: written(offset) };
        offset = next;
      }
    }
    await serveDisk({ contexts: () => [{ name, extentsOf }] });
    const map = JSON.parse(await output("nbdinfo", `--map=${name}`, "--json", uri));
    expect(map).toHaveLength(64);
    expect(map[1]).toMatchObject({ offset: MIB, length: MIB, type: 0 });
    expect(map[2]).toMatchObject({ offset: 2 * MIB, length: MIB, type: 1 });
  });
});

describe("nbdcopy", () => {
  itWith(["nbdcopy"], "copies in and out, over several connections", async () => {
    const data = Buffer.concat([randomBytes(20 * MIB), Buffer.alloc(20 * MIB), randomBytes(24 * MIB)]);
    await writeFile(join(directory, "in"), data);
    await serveDisk();
    await output("nbdcopy", "--connections=4", "--requests=16", join(directory, "in"), uri);
    expect((await readFile(path)).equals(data)).toBe(true);
    await output("nbdcopy", "--connections=4", uri, join(directory, "out"));
    expect((await readFile(join(directory, "out"))).equals(data)).toBe(true);
  });
});

describe("qemu-img", () => {
  itWith(["qemu-img"], "converts, maps and compares", async () => {
    const data = Buffer.concat([Buffer.alloc(4 * MIB), randomBytes(4 * MIB), Buffer.alloc(56 * MIB)]);
    await writeFile(join(directory, "in"), data);
    await serveDisk();
    await output("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", join(directory, "in"), uri);
    expect((await readFile(path)).equals(data)).toBe(true);
    const compared = await output(
      "qemu-img",
      "compare",
      "-f",
      "raw",
      "-F",
      "raw",
      join(directory, "in"),
      uri,
    );
    expect(compared).toContain("identical");
    const map = JSON.parse(await output("qemu-img", "map", "--output=json", "-f", "raw", uri));
    expect(map).toMatchObject([
      { start: 0, length: 4 * MIB, zero: true },
      { start: 4 * MIB, length: 4 * MIB, zero: false, data: true },
      { start: 8 * MIB, length: 56 * MIB, zero: true },
    ]);
    await output("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, join(directory, "out.qcow2"));
    const again = await output("qemu-img", "compare", "-f", "raw", uri, join(directory, "out.qcow2"));
    expect(again).toContain("identical");
  });
});

describe("qemu-io", () => {
  const commands = (list: readonly string[]) => list.flatMap((command) => ["-c", command]);

  itWith(["qemu-io"], "writes, zeroes, discards and reads at any alignment", async () => {
    await serveDisk();
    const list = [
      "write -P 7 5000 100000",
      "write -f -P 9 200000 4096",
      "write -z 300000 1M",
      "write -z -u 2M 1M",
      "discard 4M 1M",
      "aio_write -P 3 6M 2M",
      "aio_write -P 4 9M 2M",
      "aio_flush",
      "flush",
      "read -P 7 5000 100000",
      "read -P 9 200000 4096",
      "read -P 0 300000 1M",
      "read -P 0 2M 1M",
      "read -P 3 6M 2M",
      "read -P 4 9M 2M",
    ];
    const said = await output("qemu-io", "-f", "raw", ...commands(list), uri);
    expect(said).not.toMatch(/failed|error/i);
    const bytes = await readFile(path);
    expect(bytes.subarray(5000, 105_000).every((octet) => octet === 7)).toBe(true);
    expect(bytes.subarray(6 * MIB, 8 * MIB).every((octet) => octet === 3)).toBe(true);
  });

  itWith(["qemu-io"], "is kept from writing to a read-only export", async () => {
    await serveDisk({ readOnly: true });
    const refused = output("qemu-io", "-f", "raw", "-c", "write 0 4096", uri);
    await expect(refused).rejects.toMatchObject({
      stderr: expect.stringMatching(/read.?only|permission denied/i),
    });
    expect(await output("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 4096", uri)).toContain(
      "read 4096/4096",
    );
  });
});

describe("fio", () => {
  const name = "verifies what it wrote, by checksum";
  if (!hasFioEngine()) it.skip(`${name} (skipped: fio with its nbd engine not found)`, () => {});
  else
    it.each([
      ["4k", "16"],
      ["1M", "4"],
      ["1k-300k", "8"],
    ])(`${name}: blocks of %s`, async (blockSize, depth) => {
      await serveDisk();
      const said = await output(
        "fio",
        ...["--name=verify", "--ioengine=nbd", `--uri=${uri}`, "--rw=randwrite", `--size=${SIZE_BYTES / 2}`],
        ...[`--iodepth=${depth}`, blockSize.includes("-") ? `--bsrange=${blockSize}` : `--bs=${blockSize}`],
        ...[
          "--verify=crc32c",
          "--verify_state_save=0",
          "--verify_fatal=1",
          "--do_verify=1",
          "--output-format=json",
          "--randseed=77",
        ],
      );
      const { jobs } = JSON.parse(said.slice(said.indexOf("{")));
      expect(jobs[0]).toMatchObject({ error: 0 });
      expect(jobs[0].read.io_bytes).toBe(SIZE_BYTES / 2);
    });
});
