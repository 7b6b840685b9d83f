/** The guest's root file system as the host sees it, before the guest's first boot and after its last. */

import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { crc32 } from "node:zlib";
import { FileBlockStore } from "../../storage/file-block-store.ts";

const run = promisify(execFile);
const TOOLS_REMEDY = "apt-get install e2fsprogs";

export async function makeFileSystem(path: string, sizeBytes: number): Promise<void> {
  await FileBlockStore.create(path, { sizeBytes }).close();
  await tool("mkfs.ext4", ["-q", "-F", path]);
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
