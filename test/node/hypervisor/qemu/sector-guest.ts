/** The guest of boot-sector.S, and what the tests of the `qemu` hypervisor need beside it. */

import { execFileSync, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const SOURCE = join(import.meta.dirname, "boot-sector.S");
/** As `npm run qemu` leaves it, where it has run. */
const UNPACKED = join(import.meta.dirname, "../../../..", ".cache", "qemu", "qemu-system-x86_64");
const MAJOR_MIN = 9;
/** SeaBIOS and the guest's own 256 KiB; the rest is nothing but zeroes to be sent. */
export const SECTOR_GUEST_MEMORY_BYTES = 32 << 20;

/** A QEMU that is new enough; undefined where there is none, and the tests that need it are skipped. */
export const QEMU_EXECUTABLE = [UNPACKED, "qemu-system-x86_64"].find((executable) => {
  const version = spawnSync(executable, ["--version"], { encoding: "utf8" }).stdout ?? "";
  return Number(/version (\d+)/.exec(version)?.[1] ?? 0) >= MAJOR_MIN;
});

export const HAS_ASSEMBLER = ["as", "ld"].every((tool) => spawnSync(tool, ["--version"]).status === 0);

/** The boot sector: 512 bytes. */
export async function bootSector(): Promise<Buffer> {
  const dir = await mkdtemp(join(tmpdir(), "sojourn-sector-"));
  try {
    const [object, sector] = [join(dir, "sector.o"), join(dir, "sector")];
    execFileSync("as", ["--32", "-o", object, SOURCE]);
    const link = ["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"];
    execFileSync("ld", [...link, "-o", sector, object], { stdio: "ignore" });
    return await readFile(sector);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** What the guest has said so far: a B for each boot, a dot for each round, an E for each fault. */
export async function saidBy(
  consolePath: string,
): Promise<{ boots: number; rounds: number; faults: number }> {
  const text = existsSync(consolePath) ? await readFile(consolePath, "latin1") : "";
  const count = (sign: string): number => text.split(sign).length - 1;
  return { boots: count("B"), rounds: count("."), faults: count("E") };
}

/** Tells the guest to reset its machine. */
export async function tellToReset(serialPath: string): Promise<void> {
  const socket = connect(serialPath);
  await once(socket, "connect");
  socket.end("R");
  await once(socket, "close");
}
