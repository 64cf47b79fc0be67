"""What ships beside the package: units, images, examples, judged by the tools that will read them."""
