/** The highest incarnation that this host ever had, so that a restart is news also where the clock went back. */

import { open, readFile, rename } from "node:fs/promises";

export async function readIncarnation(file: string): Promise<number> {
  try {
    const value = Number((await readFile(file, "utf8")).trim());
    return Number.isSafeInteger(value) && value >= 0 ? value : 0;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw error;
  }
}

/** Whole whatever crashes. The cluster remembers, too: a number that was lost costs one more refutation. */
export async function writeIncarnation(file: string, incarnation: number): Promise<void> {
  const temporary = `${file}.tmp`;
  const handle = await open(temporary, "w", 0o600);
  try {
    await handle.writeFile(`${incarnation}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, file);
}
