// A client that is not ours: grpc-js with the contract loaded at run time. Prints one JSON object.
const [modules, protos, address, model, file] = process.argv.slice(2);
const grpc = require(modules + "/node_modules/@grpc/grpc-js");
const loader = require(modules + "/node_modules/@grpc/proto-loader");
const definition = loader.loadSync(
  ["gmvaluator/v1/attribution.proto", "gmvaluator/v1/royalty.proto"],
  { keepCase: true, longs: Number, enums: String, includeDirs: [protos] });
const v1 = grpc.loadPackageDefinition(definition).gmvaluator.v1;
const credentials = grpc.credentials.createInsecure();
const attribution = new v1.AttributionService(address, credentials);
const royalty = new v1.RoyaltyService(address, credentials);

function attribute(generation, image) {
  return new Promise((resolve) => {
    const stages = [];
    const request = { generation_id: generation, model_version: model, image };
    const call = attribution.Attribute(request, { deadline: Date.now() + 60000 });
    call.on("data", (message) => stages.push(message.attribution));
    call.on("error", (error) => resolve({ status: grpc.status[error.code], stages }));
    call.on("end", () => resolve({ status: "OK", stages }));
  });
}

async function main() {
  const image = require("fs").readFileSync(file);
  const first = await attribute("node:1", image);
  const again = await attribute("node:1", image);
  const refused = await attribute("node:2", Buffer.from("no image"));
  const balances = await new Promise((resolve, reject) =>
    royalty.GetRoyalties({}, (error, page) => (error ? reject(error) : resolve(page.royalties))));
  const final = first.stages[first.stages.length - 1];
  console.log(JSON.stringify({
    stages: first.stages.map((one) => one.stage), issued_micros: final.issued_micros,
    credits_micros: final.contributors.reduce((sum, one) => sum + one.credit_micros, final.unattributed_micros),
    replayed: again.stages.map((one) => one.replayed), refused: refused.status, balances: balances.length,
  }));
}
main().then(() => process.exit(0));
