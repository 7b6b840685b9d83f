/** A domain that xl has run until now, about to become one of ours: its configuration, and that nobody else boots it. */

import { execFile } from "node:child_process";
import { readdir, readFile, realpath } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { NodeError } from "../errors.ts";
import { importXl, type XlImport, XlImportError } from "../hypervisor/xen/xl-import.ts";

export type FromXlOptions = {
  /** Where xendomains finds what it boots. */
  autoFolder?: string;
  xl?: string;
};

/** Throws USAGE, XL_CONFIG, XL_AUTOSTART, XL_RUNNING. */
export async function readXlDomain(
  file: string,
  { autoFolder = "/etc/xen/auto", xl = "xl" }: FromXlOptions = {},
): Promise<XlImport> {
  const imported = await importFile(file);
  const link = await autostartOf(file, autoFolder);
  if (link !== undefined) throw new NodeError("XL_AUTOSTART", { file, link });
  if (await isRunning(xl, imported.name)) throw new NodeError("XL_RUNNING", { name: imported.name });
  return imported;
}

async function importFile(file: string): Promise<XlImport> {
  const text = await readFile(file, "utf8").catch((cause: NodeJS.ErrnoException) => {
    throw new NodeError("USAGE", { reason: `${file} cannot be read: ${cause.message}` }, { cause });
  });
  try {
    return importXl(text);
  } catch (cause) {
    if (!(cause instanceof XlImportError)) throw cause;
    const problems = cause.problems.map(({ line, reason, remedy }) => `line ${line}: ${reason} (${remedy})`);
    throw new NodeError("XL_CONFIG", { file, problems }, { cause });
  }
}

async function autostartOf(file: string, folder: string): Promise<string | undefined> {
  const path = await realpath(file);
  const names = await readdir(folder).catch((): string[] => []);
  for (const name of names) {
    const link = join(folder, name);
    if ((await realpath(link).catch(() => undefined)) === path) return link;
  }
  return undefined;
}

/** Without Xen here the daemon says so. */
async function isRunning(xl: string, name: string): Promise<boolean> {
  return promisify(execFile)(xl, ["domid", name]).then(
    () => true,
    () => false,
  );
}
