/** Stub of the generation log's types; see the class that follows. */
import type { BlockBitmap } from "./block-bitmap.ts";
import type { Generation } from "./units.ts";

/** The blocks written in generations `first` to `last`, per vbd in the order of the domain's vbds. */
export type GenerationLogEntry = {
  readonly first: Generation;
  readonly last: Generation;
  readonly written: readonly BlockBitmap[];
};

export declare class GenerationLog {
  readonly entries: readonly GenerationLogEntry[];
  /** The blocks written since the end of generation `g`, or undefined when the log does not reach back to it. */
  since(g: Generation): readonly BlockBitmap[] | undefined;
}
