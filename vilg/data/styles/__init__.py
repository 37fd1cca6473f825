"""The data set of `vilg data emoji --styles`: emoji with Chinese names, each drawn in up to eleven styles."""
