/** What every message must have to travel: one way out and one way in, side by side. */

import type { Message } from "../messages.ts";
import type { FieldReader, FieldWriter } from "./fields.ts";

export type MessageBody<M extends Message> = {
  /** Numbers are never reused; that of a retired message stays in its table as a comment. */
  readonly number: number;
  /**
   * How many whole sets of bitmaps the message may carry, each as large as the domain's vbds make it. A message
   * with bitmaps may be split over several frames; any other one fits a single frame.
   */
  readonly bitmapSets?: number;
  /** Writes the fields; octets that are returned follow them, uncopied. */
  write(message: M, to: FieldWriter): Uint8Array | undefined;
  read(from: FieldReader): M;
};

/** One for each type, so that a message cannot be forgotten. */
export type MessageBodies<M extends Message> = {
  readonly [Type in M["type"]]: MessageBody<Extract<M, { type: Type }>>;
};
