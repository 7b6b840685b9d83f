/**
 * Exchanges what is under the vbds' upper nodes, while the guest runs: QEMU drains what is in flight, and the
 * guest's next request goes to the new child. All vbds or none: it is one `blockdev-reopen`.
 */

import { NodeError } from "../../errors.ts";
import type { BlockdevOptions } from "../../qmp/commands.ts";
import { QmpError } from "../../qmp/errors.ts";
import type { QmpClient } from "../../qmp/qmp-client.ts";
import { isChildNode, upperOptions } from "../../qmp/vbd-nodes.ts";

/** `child`: a node that is not there yet, with its name. */
export type Pivot = { node: string; child: BlockdevOptions & { "node-name": string } };

/** Throws QMP_ERROR when QEMU refuses, and everything is as it was; QMP_CLOSED when nobody knows. */
export async function pivot(qmp: QmpClient, pivots: readonly Pivot[]): Promise<void> {
  const options = pivots.map(({ node, child }) => upperOptions(node, child["node-name"]));
  try {
    await Promise.all(pivots.map(({ child }) => qmp.execute("blockdev-add", child)));
    await qmp.execute("blockdev-reopen", { options });
  } catch (error) {
    // In QEMU's order after those that may still be added; those that were not are refused here too.
    await Promise.all(pivots.map(({ child }) => remove(qmp, child["node-name"])));
    throw error;
  }
  await removeOthers(qmp, pivots);
}

/** Those that were children before, also before a restart of ours: nothing of the guest is on them. */
async function removeOthers(qmp: QmpClient, pivots: readonly Pivot[]): Promise<void> {
  try {
    for (const { "node-name": name = "" } of await qmp.execute("query-named-block-nodes", { flat: true })) {
      const isOther = pivots.some(
        ({ node, child }) => isChildNode(name, node) && name !== child["node-name"],
      );
      if (isOther) await remove(qmp, name);
    }
  } catch {
    // The pivot is done; whoever loses the connection hears of it elsewhere.
  }
}

async function remove(qmp: QmpClient, name: string): Promise<void> {
  await qmp.execute("blockdev-del", { "node-name": name }).catch(() => undefined);
}

/** QEMU's refusal of a file that another process has open, as ours; any other error as it is. */
export function busyError(error: unknown, paths: readonly string[]): unknown {
  if (!(error instanceof QmpError) || error.detail.code !== "QMP_ERROR") return error;
  const { description } = error.detail;
  if (!/Failed to get ("\w+"|shared "\w+") lock|Failed to lock/.test(description)) return error;
  const vbd = paths.find((path) => description.includes(path)) ?? paths.join(", ");
  return new NodeError("VBD_BUSY", { vbd, holder: "another process, which holds QEMU's lock on it" });
}
