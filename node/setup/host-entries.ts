/**
 * What a host gets in the folders of its system, and how it loses it again: files that carry our line (see
 * marked-file.ts), links to them, folders. First everything is looked at; nothing is changed while one thing is
 * in the way.
 */

import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { NodeError } from "../errors.ts";
import { fileState, MARK, writeMarked } from "../marked-file.ts";

/** `path` as the host has it; `what` for people. */
export type HostEntry = { path: string; what: string } & (
  | { kind: "file"; text: string; mode: number }
  | { kind: "link"; target: string }
  | { kind: "folder"; mode: number }
);

export type Step = {
  action: "write" | "rewrite" | "link" | "make" | "remove" | "leave";
  path: string;
  what: string;
};

type PlannedStep = Step & { entry: HostEntry };

/** What is missing or old, in order; empty when all is as it should be. Throws SETUP_FOREIGN. */
export function stepsToSetUp(entries: readonly HostEntry[], root: string): PlannedStep[] {
  const foreign: string[] = [];
  const steps = entries.flatMap((entry): PlannedStep[] => {
    const action = actionFor(entry, join(root, entry.path));
    if (action === "foreign") foreign.push(entry.path);
    if (action === "foreign" || action === undefined) return [];
    return [{ action, path: entry.path, what: entry.what, entry }];
  });
  if (foreign.length > 0) throw new NodeError("SETUP_FOREIGN", { paths: foreign });
  return steps;
}

/** Removes what carries our line; `leave`: something of that name that is not ours, or a folder with more in it. */
export function stepsToUndo(entries: readonly HostEntry[], root: string): PlannedStep[] {
  const removed = new Set<string>();
  return entries.toReversed().flatMap((entry): PlannedStep[] => {
    const path = join(root, entry.path);
    if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return [];
    const isOurs = mayBeRemoved(entry, path, removed);
    if (isOurs) removed.add(path);
    return [{ action: isOurs ? "remove" : "leave", path: entry.path, what: entry.what, entry }];
  });
}

/** Carries the steps out. Throws what the system says, such as EACCES. */
export function takeSteps(steps: readonly PlannedStep[], root: string): void {
  for (const { action, entry } of steps) {
    const path = join(root, entry.path);
    if (action === "leave") continue;
    if (action === "remove") entry.kind === "folder" ? rmdirSync(path) : rmSync(path);
    else if (entry.kind === "file") writeMarked(path, entry);
    else if (entry.kind === "folder") mkdirSync(path, { recursive: true, mode: entry.mode });
    else {
      mkdirSync(dirname(path), { recursive: true });
      symlinkSync(entry.target, path);
    }
  }
}

const FILE_ACTIONS = { absent: "write", same: undefined, ours: "rewrite", foreign: "foreign" } as const;

function actionFor(entry: HostEntry, path: string): Step["action"] | "foreign" | undefined {
  if (entry.kind === "file") {
    return FILE_ACTIONS[fileState(path, entry)];
  }
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return entry.kind === "link" ? "link" : "make";
  if (entry.kind === "folder") return found.isDirectory() ? undefined : "foreign";
  return found.isSymbolicLink() && readlinkSync(path) === entry.target ? undefined : "foreign";
}

function mayBeRemoved(entry: HostEntry, path: string, removed: ReadonlySet<string>): boolean {
  const found = lstatSync(path);
  if (entry.kind === "folder")
    return found.isDirectory() && readdirSync(path).every((name) => removed.has(join(path, name)));
  if (entry.kind === "link") return found.isSymbolicLink() && readlinkSync(path) === entry.target;
  return found.isFile() && readFileSync(path, "utf8").includes(MARK);
}
