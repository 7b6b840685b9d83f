/**
 * What can go wrong with what a host knows. Callers match on `code`; the message is for the person who
 * has to do something about it, so it names the thing and the remedy.
 */

export type MetadataErrorDetail =
  /** Another process holds the database; LevelDB allows one. */
  | { code: "METADATA_LOCKED"; folder: string; holderPid?: number }
  /** LevelDB found bytes that it did not write. */
  | { code: "METADATA_CORRUPT"; folder: string; reason: string }
  /** LevelDB left out records that it could not read when it opened, and carried on: one may have been synced. */
  | { code: "METADATA_RECORDS_DROPPED"; folder: string; droppedBytes: number }
  /** The folder cannot be opened, read or written: rights, a full disk, a failing one. */
  | { code: "METADATA_UNAVAILABLE"; folder: string; reason: string }
  /** A newer Sojourn wrote this folder. */
  | { code: "METADATA_SCHEMA_NEWER"; folder: string; found: number; known: number }
  /** A LevelDB that no Sojourn wrote. */
  | { code: "METADATA_FOREIGN"; folder: string }
  /** A stored record is not what its keyspace allows. `key` in its readable form. */
  | { code: "METADATA_RECORD_INVALID"; key: string; reason: string }
  /** A name or an id's beginning fits several domains. */
  | { code: "METADATA_DOMAIN_AMBIGUOUS"; query: string; matches: readonly string[] }
  /** A write would take a domain back to an earlier generation: the fence may only rise. */
  | { code: "METADATA_GENERATION_LOWERED"; domain: string; stored: number; offered: number }
  /** A write would give a generation that has an owner to another host: a generation names its only host. */
  | { code: "METADATA_OWNER_CHANGED"; domain: string; generation: number; stored: string; offered: string }
  /** Used after `close`. */
  | { code: "METADATA_CLOSED" };

export class MetadataError extends Error {
  readonly code: MetadataErrorDetail["code"];
  readonly detail: MetadataErrorDetail;

  constructor(detail: MetadataErrorDetail, options?: ErrorOptions) {
    super(messageOf(detail), options);
    this.name = "MetadataError";
    this.code = detail.code;
    this.detail = detail;
  }
}

function messageOf(detail: MetadataErrorDetail): string {
  switch (detail.code) {
    case "METADATA_LOCKED": {
      const holder = detail.holderPid === undefined ? "" : ` (process ${detail.holderPid})`;
      return (
        `${detail.folder} is in use by another sojourn daemon${holder}: stop that one or give this one a data folder ` +
        `of its own; \`fuser -v ${detail.folder}/LOCK\` shows who holds it`
      );
    }
    case "METADATA_CORRUPT":
      return `${detail.folder} is damaged (${detail.reason}). ${repairAdvice(detail.folder)}`;
    case "METADATA_RECORDS_DROPPED":
      return (
        `${detail.folder} is damaged: ${detail.droppedBytes} bytes of records could not be read back, perhaps who ` +
        `owns a domain. ${repairAdvice(detail.folder)}`
      );
    case "METADATA_UNAVAILABLE":
      return `${detail.folder} cannot be used (${detail.reason}): check that it exists, its rights and the disk's space`;
    case "METADATA_SCHEMA_NEWER":
      return (
        `${detail.folder} was written by a newer sojourn (schema ${detail.found}; this one knows up to ` +
        `${detail.known}): run that version, nothing was changed`
      );
    case "METADATA_FOREIGN":
      return `${detail.folder} holds a LevelDB that sojourn did not write: choose another data folder, nothing was changed`;
    case "METADATA_RECORD_INVALID":
      return `the stored record ${detail.key} cannot be read: ${detail.reason}`;
    case "METADATA_DOMAIN_AMBIGUOUS":
      return `"${detail.query}" fits several domains: ${detail.matches.join(", ")}; give the whole id`;
    case "METADATA_GENERATION_LOWERED":
      return `domain ${detail.domain} is at generation ${detail.stored} here and cannot go back to ${detail.offered}`;
    case "METADATA_OWNER_CHANGED":
      return (
        `generation ${detail.generation} of domain ${detail.domain} belongs to ${detail.stored} and cannot be given ` +
        `to ${detail.offered}`
      );
    case "METADATA_CLOSED":
      return "the metadata of this host is closed";
  }
}

function repairAdvice(folder: string): string {
  return (
    `Nothing was deleted. Stop the daemon, copy ${folder} aside, then run \`sojourn repair\` (it keeps a copy too), ` +
    `and ask the other hosts who owns each domain before starting any`
  );
}
