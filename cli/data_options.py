"""What options say of images, in one wording for every command that reads some."""

SOURCE_HELP = "images: `drawn`, `mnist:DIR`, a FER2013-like .csv or .csv.gz, or other inputs as .npz"
USAGE_HELP = "only rows with this Usage, for CSV files that have that column; train or test of mnist:DIR"
