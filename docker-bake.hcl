# The images, for `docker buildx bake` (make images, make push-images). One target for each of the Dockerfile's.

variable "REGISTRY" {
  # Where the images go, such as ghcr.io/user/arxiv-cls; the default is a name for local images.
  default = "arxiv-cls"
}

variable "VERSION" {
  default = "dev"
}

variable "COMMIT" {
  # What the images are built from, 40 hex digits; empty for a tree that is no commit.
  default = ""
}

group "default" {
  targets = ["train", "baseline", "evaluate", "serve", "monitor", "space"]
}

target "image" {
  name       = item
  matrix     = { item = ["train", "baseline", "evaluate", "serve", "monitor", "space"] }
  context    = "."
  dockerfile = "Dockerfile"
  target     = item
  tags       = ["${REGISTRY}/${item}:${VERSION}"]
  args       = { COMMIT = COMMIT }
  labels = {
    "org.opencontainers.image.title"    = "arxiv_cls ${item}"
    "org.opencontainers.image.version"  = VERSION
    "org.opencontainers.image.revision" = COMMIT
    "org.opencontainers.image.licenses" = "Apache-2.0"
  }
}
