/** The guest's root file system as the host sees it, before the guest's first boot and after its last. */

import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { crc32 } from "node:zlib";
import { FileBlockStore } from "../../storage/file-block-store.ts";

const run = promisify(execFile);
const FILL_FILE_BYTES = 16 << 20;
const TOOLS_REMEDY = "apt-get install e2fsprogs";

/** `fillBytes`: of files with random contents that lie in it from the beginning. */
export async function makeFileSystem(
  path: string,
  sizeBytes: number,
  { fillBytes = 0 }: { fillBytes?: number } = {},
): Promise<void> {
  await FileBlockStore.create(path, { sizeBytes }).close();
  if (fillBytes === 0) return void (await tool("mkfs.ext4", ["-q", "-F", path]));
  const folder = await mkdtemp(join(tmpdir(), "sojourn-fill-"));
  try {
    for (let at = 0; at < fillBytes; at += FILL_FILE_BYTES) {
      const size = Math.min(FILL_FILE_BYTES, fillBytes - at);
      await writeFile(join(folder, `fill${at / FILL_FILE_BYTES}`), randomBytes(size));
    }
    await tool("mkfs.ext4", ["-q", "-F", "-d", folder, path]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** What `e2fsck -fn` has to say: it looks at everything, and changes nothing. */
export async function checkFileSystem(path: string): Promise<{ clean: boolean; output: string }> {
  try {
    const { stdout } = await tool("e2fsck", ["-f", "-n", path]);
    return { clean: true, output: stdout.trim() };
  } catch (error) {
    const { stdout = "", stderr = "", code } = error as { stdout?: string; stderr?: string; code?: unknown };
    if (typeof code !== "number") throw error;
    return { clean: false, output: `${stdout}${stderr}`.trim() };
  }
}

/** Size and checksum of every regular file in the root of the file system, read without mounting it. */
export async function readFileSums(path: string): Promise<Map<string, { size: number; crc32: number }>> {
  const folder = await mkdtemp(join(tmpdir(), "sojourn-files-"));
  try {
    await tool("debugfs", ["-R", `rdump / ${folder}`, path]);
    const sums = new Map<string, { size: number; crc32: number }>();
    for (const entry of await readdir(folder, { withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const bytes = await readFile(join(folder, entry.name));
      sums.set(entry.name, { size: bytes.length, crc32: crc32(bytes) });
    }
    return sums;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** These tools lie where only root's PATH looks. */
async function tool(name: string, args: readonly string[]): Promise<{ stdout: string; stderr: string }> {
  const env = { ...process.env, PATH: `${process.env.PATH ?? ""}:/usr/sbin:/sbin` };
  try {
    return await run(name, args, { env, maxBuffer: 16 << 20 });
  } catch (cause) {
    const isAbsent = (cause as { code?: unknown }).code === "ENOENT";
    if (isAbsent) throw new Error(`${name} is needed: ${TOOLS_REMEDY}`, { cause });
    throw cause;
  }
}
