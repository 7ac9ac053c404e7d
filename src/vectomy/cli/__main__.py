from vectomy.cli import main

main()
