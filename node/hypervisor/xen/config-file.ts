/**
 * A domain's configuration where the administrator of a Xen host looks for it: `<folder>/<name>.cfg`, while the domain
 * is this host's. To be read; the block script refuses `xl create` of it wherever the domain is not to run.
 */

import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileState, MARK, writeMarked } from "../../marked-file.ts";
import type { DomainSpec } from "../hypervisor.ts";

type Place = { folder: string; spec: Pick<DomainSpec, "id" | "name"> };

/** False: something of that name is there that is not ours, and stays. */
export function placeConfig({ folder, spec }: Place, text: string): boolean {
  const path = pathOf({ folder, spec });
  const head = `# ${MARK}\n# Sojourn has this domain: \`sojourn start ${spec.name}\`, and neither xl create nor xl migrate.\n`;
  const file = { text: head + text, mode: 0o644 };
  if (fileState(path, file) === "foreign") return false;
  writeMarked(path, file);
  return true;
}

/** Of this domain only: another one of its name may have come. */
export function removeConfig(place: Place): void {
  const path = pathOf(place);
  if (!existsSync(path)) return;
  const text = readFileSync(path, "utf8");
  if (text.includes(MARK) && text.includes(`uuid = "${place.spec.id}"`)) rmSync(path);
}

function pathOf({ folder, spec }: Place): string {
  return join(folder, `${spec.name}.cfg`);
}
