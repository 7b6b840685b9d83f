/**
 * From the placeholders that a domain was received on to our exports: those are there only once this host owns
 * the domain. Part of the downtime, so all vbds go in one step and nothing is asked that is known.
 */

import type { QmpClient } from "../../qmp/qmp-client.ts";
import { childNode, exportOptions, upperOptions, vbdNode } from "../../qmp/vbd-nodes.ts";
import type { VbdAttachment } from "../hypervisor.ts";

/** A child of the vbd's node by its name, and by its number none that is made at random. */
export function placeholderNode(index: number): string {
  return `${vbdNode(index)}-0000000000`;
}

/** Whether the domain, received by an earlier process of ours perhaps, is on placeholders still. */
export async function hasPlaceholders(client: QmpClient): Promise<boolean> {
  const nodes = await client.execute("query-named-block-nodes", { flat: true });
  // A raw node's file is its child's; a child that has none is described.
  return nodes.some((node) => node["node-name"] === vbdNode(0) && node.file.includes('"null-co"'));
}

/**
 * The domain must be stopped, and be on placeholders. Those stay, without a use, until the vbds leave our
 * exports: QEMU deletes a node only when no request is in flight, and stands still meanwhile. While blocks are missing
 * a read waits for the source, and the source's answer may wait for the end of the resume.
 */
export async function leavePlaceholders(client: QmpClient, vbds: readonly VbdAttachment[]): Promise<void> {
  const pairs = vbds.map((vbd, index) => ({ vbd, node: vbdNode(index), child: childNode(vbdNode(index)) }));
  await Promise.all(pairs.map(({ vbd, child }) => client.execute("blockdev-add", exportOptions(child, vbd))));
  const options = pairs.map(({ node, child }) => upperOptions(node, child));
  if (options.length > 0) await client.execute("blockdev-reopen", { options });
}
