/** Specs to begin with, and specs as text: to be edited, and to be copied. */

const NEAR_1024 = { max_size: [1024, 1024], dim_limit: 2048 };

/** Ladders by name, in the words of a run spec; ranks and batch size come to them. */
export const PRESETS = [
  { name: "novelai", about: "NovelAI's ladder, 768 × 512", fields: {} },
  { name: "sd15", about: "Stable Diffusion 1.5's sizes", fields: { ladder: { kind: "preset", name: "sd15" } } },
  { name: "sdxl", about: "SDXL's 40 sizes", fields: { ladder: { kind: "preset", name: "sdxl" } } },
  { name: "pixart-512", about: "PixArt's sizes at 512", fields: { ladder: { kind: "preset", name: "pixart-512" } } },
  { name: "kohya-1024", about: "kohya's buckets at 1024", fields: { ladder: { kind: "kohya", resolution: 1024, max_bucket_reso: 2048 } } },
  { name: "no-upscale", about: "kohya's, without scaling images up", fields: { ladder: { kind: "kohya", resolution: 1024, bucket_no_upscale: true } } },
  { name: "geometric", about: "diffusion-pipe's seven aspects", fields: { ladder: { kind: "geometric", base_res: 1024 } } },
  { name: "fitted-8", about: "the 8 sizes that crop least, to 1024", fields: { ladder: { kind: "fitted", num_buckets: 8, ...NEAR_1024 } } },
  { name: "fitted-16", about: "the 16 sizes that crop least, to 1024", fields: { ladder: { kind: "fitted", num_buckets: 16, ...NEAR_1024 } } },
  { name: "native", about: "packs of images at their own sizes, to 1024", fields: { ladder: "native", pack: { max_tokens: 16384 } } },
  { name: "tiers", about: "512, 768 and 1024 in one run", fields: { ladder: { kind: "tiers", resolution: [512, 768, 1024] } } },
  { name: "novelai-exact", about: "the published BucketManager, bit for bit", fields: { planner: "novelai" } },
];

export const MAX_PLANS = 16;

const SHORT = 44;

/** JSON as people write it: what is short in a line, and of what is not a field a line. */
export function pretty(value, indent = "") {
  // a string in JSON never contains a raw line break
  const line = JSON.stringify(value, null, 1).replace(/\s*\n\s*/g, " ").replace(/^([[{]) | ([\]}])$/g, "$1$2");
  const is_list = value === null || typeof value !== "object" || Array.isArray(value);
  if (is_list || (indent && line.length <= SHORT)) return line;
  const fields = Object.entries(value).map(([field, each]) => `${indent}  ${JSON.stringify(field)}: ${pretty(each, `${indent}  `)}`);
  return fields.length ? `{\n${fields.join(",\n")}\n${indent}}` : "{}";
}

/** A run's spec without its map, and without what it has by default: nothing. */
export function ofRun(spec) {
  const own = Object.entries(spec).filter(([field, value]) => field !== "map" && field !== "maps" && value !== null);
  return Object.fromEntries(own);
}

/** The object in a text; throws an error with the message to show. */
export function parse(text) {
  let spec;
  try {
    spec = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
  if (spec === null || typeof spec !== "object" || Array.isArray(spec)) {
    throw new Error('This is no JSON object: write {"world_size": 8, "batch_size": 8}');
  }
  return spec;
}

/** What POST /v1/previews takes of the maps, and a run spec as well. */
export const sources = (maps) => (maps.length === 1 ? { map: maps[0] } : { maps: maps.map((map) => ({ map })) });

/** Opens a run of it, in a shell; nothing need be saved before. */
export function command(name, maps, spec) {
  const run = name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[._-]+/, "").slice(0, 128) || "run";
  return `bucketline run put ${run} /dev/stdin <<'JSON'\n${pretty({ ...sources(maps), ...spec })}\nJSON`;
}

/** Also where the page came over plain http from another machine, and the browser keeps its clipboard to itself. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("this browser does not allow copying");
  return undefined;
}
