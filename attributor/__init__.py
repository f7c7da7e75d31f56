"""The attributor: a gRPC service that attributes generated images to training images and posts the credits."""
