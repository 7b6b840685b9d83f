/** What a QEMU that somebody else started must be like to be taken over. */

import { realpath } from "node:fs/promises";
import type { QmpClient } from "../../qmp/qmp-client.ts";
import { vbdNode } from "../../qmp/vbd-nodes.ts";
import { badSpec, HypervisorError } from "../errors.ts";
import type { DomainSpec } from "../hypervisor.ts";
import { stateOf } from "./run-state.ts";

/** Throws HYPERVISOR_BAD_SPEC where its vbds are not what the specification says, HYPERVISOR_BAD_STATE. */
export async function checkAdoptable(client: QmpClient, { vbds }: DomainSpec): Promise<void> {
  const { state } = stateOf(await client.execute("query-status"));
  if (state !== "running" && state !== "suspended") {
    throw new HypervisorError({ code: "HYPERVISOR_BAD_STATE", operation: "adopt", state });
  }
  const nodes = await client.execute("query-named-block-nodes", { flat: true });
  for (const [index, { name, sizeBytes, path }] of vbds.entries()) {
    const node = nodes.find((one) => one["node-name"] === vbdNode(index));
    if (node === undefined || node.drv !== "raw") {
      throw badVbds(
        `its QEMU has no raw block node ${vbdNode(index)} for the vbd ${name}; start it with ` +
          `-blockdev driver=raw,node-name=${vbdNode(index)},file.driver=file,file.filename=… and a device with drive=${vbdNode(index)}`,
      );
    }
    const { filename, "virtual-size": size } = node.image;
    if (size !== sizeBytes) throw badVbds(`${name} has ${sizeBytes} bytes, and ${size} in its QEMU`);
    // Where our export or the native path takes its place, the guest must not find another disk.
    if (path !== undefined && (await realpath(filename).catch(() => filename)) !== (await realpath(path))) {
      throw badVbds(`${name} is ${path}, and ${filename} in its QEMU`);
    }
  }
}

function badVbds(reason: string): HypervisorError {
  return badSpec("vbds", reason);
}
