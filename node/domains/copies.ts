/**
 * What this host holds of a domain that wants to come here, and whether that can be believed. Looks only;
 * nothing is changed by it. DESIGN §4 rule 7: an old copy is the asset, never an obstacle.
 */

import { existsSync, statSync } from "node:fs";
import type { CopyAtDestination, DomainDescription, VbdDescription } from "../../protocol/messages.ts";
import { NOBODY } from "../../protocol/recovery.ts";
import type { Generation } from "../../protocol/units.ts";
import {
  compareIdentity,
  type FileIdentity,
  findOpenElsewhere,
  fingerprint,
} from "../../storage/file-identity.ts";
import type { Metadata } from "../../storage/metadata.ts";
import { sizeOfPath } from "../../storage/path-size.ts";
import type { ReplicaRecord, VbdRecord } from "../../storage/records.ts";
import { NodeError } from "../errors.ts";
import { freeBytesOf, type HostPaths } from "./host-paths.ts";

export type CopiesParts = { metadata: Metadata; paths: HostPaths; self: string; hostName: string };

/**
 * Throws the refusal (NOT_OWNER, VBD_SIZE_MISMATCH, VBD_BUSY, DESTINATION_FULL); `bytesNeeded` is what the
 * vbds occupy at the source: what is here of them already needs no room again.
 */
export async function examineCopies(
  { metadata, paths, self, hostName }: CopiesParts,
  {
    domain,
    generation,
    source,
    bytesNeeded,
  }: { domain: DomainDescription; generation: Generation; source: string; bytesNeeded: number },
): Promise<CopyAtDestination[]> {
  refuseUnsafeNames(domain);
  const known = await metadata.domains.get(domain.id);
  // Only the host that we know to own the domain under this generation, or a later one, may hand it over.
  const isForeign =
    known !== undefined && known.generation === generation && ![source, NOBODY].includes(known.owner);
  if (known !== undefined && (isForeign || known.generation > generation || known.owner === self)) {
    throw new NodeError("NOT_OWNER", {
      domain: domain.name,
      owner: known.owner === self ? hostName : known.owner,
      generation: known.generation,
    });
  }
  const namesake = known === undefined ? await metadata.domains.find(domain.name) : undefined;
  if (namesake !== undefined && namesake.name === domain.name) {
    throw new NodeError("DOMAIN_EXISTS", { name: domain.name, domain: namesake.id });
  }
  const replica = await metadata.replicas.get(domain.id, self);
  const copies: CopyAtDestination[] = [];
  for (const vbd of domain.vbds) {
    const record = await metadata.vbds.get(domain.id, vbd.name);
    copies.push(await examineCopy({ paths, hostName }, { domain, vbd, record, replica }));
  }
  await refuseWithoutSpace({
    paths,
    hostName,
    bytesNeeded: bytesNeeded - (await occupiedBy(metadata, paths, domain)),
  });
  return copies;
}

async function occupiedBy(
  metadata: Metadata,
  paths: HostPaths,
  { id, vbds }: DomainDescription,
): Promise<number> {
  let bytes = 0;
  for (const { name } of vbds) {
    const path = (await metadata.vbds.get(id, name))?.path ?? paths.vbdFile(id, name);
    if (existsSync(path)) bytes += occupiedBytes(path);
  }
  return bytes;
}

/** What a file takes of its file system, holes left out; a device is all there. */
export function occupiedBytes(path: string): number {
  const info = statSync(path);
  return info.isBlockDevice() ? sizeOfPath(path) : info.blocks * STAT_BLOCK_BYTES;
}

/** The unit of `st_blocks`, whatever the file system's own is. */
const STAT_BLOCK_BYTES = 512;

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const VBD_NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;

/** Ids and names become parts of paths: a peer must not choose which. Throws PEER_MISBEHAVED. */
export function refuseUnsafeNames({ id, vbds }: Pick<DomainDescription, "id" | "vbds">): void {
  if (!UUID.test(id)) throw new NodeError("PEER_MISBEHAVED", { reason: "a domain's id is not a UUID" });
  const bad = vbds.find(({ name }) => !isVbdName(name));
  if (bad !== undefined)
    throw new NodeError("PEER_MISBEHAVED", { reason: `"${bad.name}" cannot be a vbd's name` });
}

export function isVbdName(name: string): boolean {
  return VBD_NAME.test(name) && !name.includes("..");
}

/** Throws VBD_BUSY where somebody else could write to it: nobody would know of what he wrote. */
export async function refuseOpenElsewhere(path: string, vbd = path): Promise<void> {
  const [holder] = await findOpenElsewhere(path);
  if (holder === undefined) return;
  const { pid, command } = holder;
  throw new NodeError("VBD_BUSY", {
    vbd,
    holder: `process ${pid} (${command}), which has it open for writing`,
  });
}

async function examineCopy(
  { paths, hostName }: { paths: HostPaths; hostName: string },
  {
    domain,
    vbd,
    record,
    replica,
  }: {
    domain: DomainDescription;
    vbd: VbdDescription;
    record: VbdRecord | undefined;
    replica: ReplicaRecord | undefined;
  },
): Promise<CopyAtDestination> {
  const path = record?.path ?? paths.vbdFile(domain.id, vbd.name);
  if (!existsSync(path)) {
    return { kind: "none" };
  }
  const sizeBytes = sizeOfPath(path);
  if (sizeBytes !== vbd.sizeBytes) {
    throw new NodeError("VBD_SIZE_MISMATCH", {
      vbd: `${domain.name}/${vbd.name} (${path} on ${hostName})`,
      sizeBytes: vbd.sizeBytes,
      foundBytes: sizeBytes,
    });
  }
  await refuseOpenElsewhere(path, `${domain.name}/${vbd.name} (${path} on ${hostName})`);
  if (record === undefined || replica === undefined) {
    return { kind: "unknown", reason: "this host has no record of what the file is" };
  }
  if (replica.state !== "whole")
    return { kind: "unknown", reason: replica.reason ?? `the replica is ${replica.state}` };
  if (record.identity === undefined) return { kind: "unknown", reason: "it was not closed in order" };
  const identity = record.identity as unknown as FileIdentity;
  const difference = compareIdentity(identity, await fingerprint(path, { seed: identity.seed }));
  if (difference !== undefined)
    return { kind: "unknown", reason: `it was modified by someone else: ${difference}` };
  return { kind: "replica", generation: replica.generation };
}

async function refuseWithoutSpace({
  paths,
  hostName,
  bytesNeeded,
}: {
  paths: HostPaths;
  hostName: string;
  bytesNeeded: number;
}): Promise<void> {
  if (bytesNeeded <= 0) return;
  const freeBytes = await freeBytesOf(paths);
  if (freeBytes < bytesNeeded) {
    throw new NodeError("DESTINATION_FULL", {
      host: hostName,
      neededBytes: bytesNeeded,
      freeBytes,
    });
  }
}
