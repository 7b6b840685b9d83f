/**
 * Files of ours in folders of the system. A line in each says whose it is: one without that line is somebody else's,
 * and is neither overwritten nor removed.
 */

import { lstatSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

export const MARK = "Written by Sojourn; changes are overwritten.";

/** `ours`: with our line in it, and another text or mode than wanted. */
export type FileState = "absent" | "same" | "ours" | "foreign";

export function fileState(path: string, { text, mode }: { text: string; mode: number }): FileState {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return "absent";
  if (!found.isFile()) return "foreign";
  const there = readFileSync(path, "utf8");
  if (there === text && (found.mode & 0o777) === mode) return "same";
  return there.includes(MARK) ? "ours" : "foreign";
}

/** The caller has looked at its state. Nobody ever reads half of it. */
export function writeMarked(path: string, { text, mode }: { text: string; mode: number }): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.new`, text, { mode });
  renameSync(`${path}.new`, path);
}
