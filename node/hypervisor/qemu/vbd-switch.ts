/**
 * From the placeholders that a domain was received on to our exports: those are there only once this host owns
 * the domain. Part of the downtime, so all vbds go in one step.
 */

import type { QmpClient } from "../../qmp/qmp-client.ts";
import { childNode, exportOptions, isChildNode, upperOptions, vbdNode } from "../../qmp/vbd-nodes.ts";
import type { VbdAttachment } from "../hypervisor.ts";

/** Whether there were any. The domain must be stopped. */
export async function leavePlaceholders(client: QmpClient, vbds: readonly VbdAttachment[]): Promise<boolean> {
  const nodes = await client.execute("query-named-block-nodes", { flat: true });
  const placeholders = nodes.flatMap(({ drv, "node-name": name = "" }) => {
    return drv === "null-co" && vbds.some((_, index) => isChildNode(name, vbdNode(index))) ? [name] : [];
  });
  if (placeholders.length === 0) return false;
  const pairs = vbds.map((vbd, index) => ({ vbd, node: vbdNode(index), child: childNode(vbdNode(index)) }));
  await Promise.all(pairs.map(({ vbd, child }) => client.execute("blockdev-add", exportOptions(child, vbd))));
  const options = pairs.map(({ node, child }) => upperOptions(node, child));
  await client.execute("blockdev-reopen", { options });
  // Not waited for: they are of no use, and do no harm.
  for (const name of placeholders) {
    void client.execute("blockdev-del", { "node-name": name }).catch(() => undefined);
  }
  return true;
}
